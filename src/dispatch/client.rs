//! HTTP requests through reqwest: hop by hop along redirects, under one time
//! limit, to allowed addresses alone, and no more of a response than asked for.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use reqwest::header::LOCATION;
use reqwest::redirect::Policy;
use rustls::ClientConfig;
use tokio::time::timeout;
use url::Url;

use super::address::{Refusal, Resolver, Rules, World, literal};
use super::explain::{Fault, SendError, Server, cause, explain};
use super::proxy::Proxies;
use super::received::Received;
use super::redirect::{Hop, NoTarget, is_redirect, target};
use super::tls;
use crate::model::Webhook;
use crate::model::request::{Header, Method, Request};
use crate::model::transport::{Proxy, Tls, Transport, place};

/// What pinhook calls itself unless a webhook configures otherwise.
const USER_AGENT: &str = concat!("pinhook/", env!("CARGO_PKG_VERSION"));

/// Carries the delivery's id, the same for every attempt.
const DELIVERY_HEADER: &str = "X-Pinhook-Delivery";

/// One HTTP client for each distinct set of client settings.
#[derive(Default)]
pub(super) struct Clients {
    clients: HashMap<Arc<Transport>, Client>,
    /// To read the system's authorities takes a while and some memory.
    tls: HashMap<Tls, ClientConfig>,
    own_ports: Arc<RwLock<Vec<u16>>>,
    world: World,
}

/// An HTTP client; cheap to clone, and its clones share their connections.
#[derive(Clone)]
pub(super) struct Client(Arc<Shared>);

struct Shared {
    transport: Arc<Transport>,
    tls: ClientConfig,
    proxies: Proxies,
    own_ports: Arc<RwLock<Vec<u16>>>,
    world: World,
    made: Mutex<Vec<(Way, reqwest::Client)>>,
}

/// What connections can be shared among: each has a client of reqwest's, made when
/// it is first needed.
struct Way {
    rules: Rules,
    proxy: Option<Url>,
}

/// Why no requests can be made at all.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up HTTP requests: {0}")]
pub struct SetupError(String);

impl Clients {
    /// The client for webhooks with this transport.
    ///
    /// # Errors
    ///
    /// When its TLS or its proxy cannot be set up.
    pub(super) fn get(&mut self, transport: &Arc<Transport>) -> Result<Client, SetupError> {
        if let Some(client) = self.clients.get(transport) {
            return Ok(client.clone());
        }
        let tls = match self.tls.get(&transport.tls) {
            Some(config) => config.clone(),
            None => {
                let config = tls::config(&transport.tls);
                let config = config.map_err(|error| SetupError(error.to_string()))?;
                self.tls.insert(transport.tls.clone(), config.clone());
                config
            }
        };
        let client = Client(Arc::new(Shared {
            transport: Arc::clone(transport),
            tls,
            proxies: Proxies::new(&transport.proxy),
            own_ports: Arc::clone(&self.own_ports),
            world: self.world.clone(),
            made: Mutex::default(),
        }));
        // The one that most requests take; what is wrong with it is known early.
        let proxy = match &transport.proxy {
            Proxy::Server(url) => Some(url),
            Proxy::Environment | Proxy::Direct => None,
        };
        let usual = client.0.by(Rules::default(), proxy);
        usual.map_err(SetupError)?;
        self.clients.insert(Arc::clone(transport), client.clone());
        Ok(client)
    }

    /// Forgets the clients of other transports than these.
    pub(super) fn keep<'a>(&mut self, transports: impl Iterator<Item = &'a Arc<Transport>>) {
        let used: HashSet<&Arc<Transport>> = transports.collect();
        self.clients.retain(|transport, _| used.contains(transport));
        self.tls
            .retain(|tls, _| used.iter().any(|transport| transport.tls == *tls));
    }

    /// Says where pinhook itself listens, for the requests from now on: nobody may
    /// redirect there.
    pub(super) fn listens_on(&self, addresses: impl IntoIterator<Item = SocketAddr>) {
        let mut ports: Vec<u16> = addresses.into_iter().map(|own| own.port()).collect();
        ports.sort_unstable();
        ports.dedup();
        *self
            .own_ports
            .write()
            .unwrap_or_else(PoisonError::into_inner) = ports;
    }
}

impl Shared {
    fn by(&self, rules: Rules, proxy: Option<&Url>) -> Result<reqwest::Client, String> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        // Seldom more than one.
        let known = made
            .iter()
            .find(|(way, _)| way.rules == rules && way.proxy.as_ref() == proxy);
        if let Some((_, client)) = known {
            return Ok(client.clone());
        }
        let way = Way {
            rules,
            proxy: proxy.cloned(),
        };
        let builder = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .connect_timeout(self.transport.connect_timeout)
            .redirect(Policy::none())
            .referer(false)
            .tcp_nodelay(true)
            .tls_backend_preconfigured(self.tls.clone())
            .no_proxy();
        let rules = match way.proxy {
            // The name is then the proxy's, whom the owner trusts.
            Some(_) => Rules::default(),
            None => way.rules,
        };
        let builder = builder.dns_resolver(Resolver {
            rules,
            world: self.world.clone(),
        });
        let builder = match &way.proxy {
            Some(url) => {
                let unusable = |why: &str| format!("the proxy {}: {why}", place(url));
                if !matches!(url.scheme(), "http" | "https") {
                    return Err(unusable("its URL begins neither with http nor with https"));
                }
                let proxy = reqwest::Proxy::all(url.as_str());
                builder.proxy(proxy.map_err(|error| unusable(&cause(&error)))?)
            }
            None => builder,
        };
        let client = builder.build().map_err(|error| cause(&error))?;
        made.push((way, client.clone()));
        Ok(client)
    }
}

/// An attempt on its way from hop to hop.
struct Attempt<'a> {
    shared: &'a Shared,
    webhook: &'a Webhook,
    /// Where it is.
    hop: Hop,
    /// Whom the redirect to this hop came from, and with which status.
    redirected: Option<(u16, String)>,
    /// Redirects that were followed.
    followed: u32,
    /// Whether a hop was on the internet.
    was_public: bool,
    /// The status of the response that is being read.
    status: Option<u16>,
}

impl Client {
    /// Sends `request`, follows redirects, and reads at most `response.max_size`
    /// bytes of decompressed body. All of that within `timeout`.
    pub(super) async fn send(
        &self,
        request: Request,
        id: &str,
        webhook: &Webhook,
    ) -> Result<Received, SendError> {
        let mut attempt = Attempt {
            shared: &self.0,
            webhook,
            hop: first_hop(request, id),
            redirected: None,
            followed: 0,
            was_public: false,
            status: None,
        };
        let received = timeout(webhook.timeout, attempt.run()).await;
        let received = received.unwrap_or_else(|_| Err(attempt.too_slow()));
        let is_redirected = attempt.redirected.is_some();
        received.map_err(|fault| SendError::new(fault, is_redirected, attempt.status))
    }
}

impl Attempt<'_> {
    async fn run(&mut self) -> Result<Received, Fault> {
        loop {
            let mut response = self.request().await?;
            let status = response.status().as_u16();
            let headers = std::mem::take(response.headers_mut());
            let mut remark = None;
            if is_redirect(status) {
                let location = headers.get(LOCATION).map(|value| value.as_bytes());
                match target(&self.hop.url, location) {
                    Ok(target) if self.webhook.redirects > 0 => {
                        self.follow(status, target)?;
                        continue;
                    }
                    Err(why) if self.webhook.redirects > 0 && why != NoTarget::Missing => {
                        let from = place(&self.hop.url);
                        return Err(Fault::Misdirected { status, from, why });
                    }
                    Ok(target) => {
                        let to = place(&target);
                        remark = Some(format!("it redirects to {to}, and `redirects` is 0"));
                    }
                    Err(why) => remark = Some(why.to_string()),
                }
            }
            let body = match self.webhook.success.have(status) {
                true => {
                    self.status = Some(status);
                    self.read(response).await?
                }
                // Nobody wants it, whatever its size.
                false => Vec::new(),
            };
            return Ok(Received {
                status,
                headers,
                body,
                remark,
            });
        }
    }

    /// Sends one request, and waits for the head of its response.
    async fn request(&mut self) -> Result<reqwest::Response, Fault> {
        let shared = self.shared;
        let url = &self.hop.url;
        let guard = self.webhook.allow_hosts.as_ref();
        if guard.is_some_and(|hosts| !hosts.allow(url)) {
            return Err(match &self.redirected {
                None => Fault::Unlisted { server: place(url) },
                Some((status, from)) => Fault::MisledOut {
                    status: *status,
                    from: from.clone(),
                    to: place(url),
                },
            });
        }
        let proxy = self.proxy();
        let rules = Rules {
            no_private: self.was_public,
            no_metadata: guard.is_some() || self.is_sent_elsewhere(url),
            no_own: (guard.is_some() || self.redirected.is_some()) && shared.is_own_port(url),
        };
        rules
            .judge_literal(url, &shared.world)
            .map_err(|why| self.refused(url, why))?;
        let client = shared.by(rules, proxy).map_err(Fault::Build)?;
        let request = build(&client, &self.hop)?;
        let sent = client.execute(request).await;
        let response =
            sent.map_err(|error| self.explain(&error, "before its response was complete"))?;
        let address = match proxy {
            None => response.remote_addr().map(|peer| peer.ip()),
            // Whom a proxy connects to it does not say; a name may be anybody's.
            Some(_) => literal(url),
        };
        self.was_public |= address.is_none_or(|address| !(shared.world.is_private)(address));
        Ok(response)
    }

    /// The proxy in between; what is behind one cannot be checked.
    fn proxy(&self) -> Option<&Url> {
        match self.webhook.allow_hosts {
            Some(_) => None,
            None => self.shared.proxies.for_url(&self.hop.url),
        }
    }

    fn too_slow(&self) -> Fault {
        let server = place(&self.hop.url);
        let limit = self.webhook.timeout;
        match self.status {
            None => Fault::Silent { server, limit },
            Some(_) => Fault::Slow { server, limit },
        }
    }

    fn explain(&self, error: &reqwest::Error, when: &'static str) -> Fault {
        let url = &self.hop.url;
        let server = Server::of(url, self.proxy());
        let connect_timeout = self.webhook.transport.connect_timeout;
        let fault = explain(error, &server, connect_timeout, when);
        fault.unwrap_or_else(|why| self.refused(url, why))
    }

    fn refused(&self, url: &Url, why: Refusal) -> Fault {
        let to = place(url);
        match &self.redirected {
            None => Fault::Refused { server: to, why },
            Some((status, from)) => Fault::Misled {
                status: *status,
                from: from.clone(),
                to,
                why,
            },
        }
    }

    /// Whether a redirect led here from another host.
    fn is_sent_elsewhere(&self, url: &Url) -> bool {
        let from = self.redirected.as_ref();
        from.is_some_and(|(_, from)| *from != place(url))
    }

    /// Goes to the next hop.
    fn follow(&mut self, status: u16, target: Url) -> Result<(), Fault> {
        let (from, to) = (place(&self.hop.url), place(&target));
        let limit = self.webhook.redirects;
        if self.followed == limit {
            return Err(Fault::TooManyRedirects {
                status,
                from,
                to,
                limit,
            });
        }
        if self.hop.would_tell(status, &target) {
            return Err(Fault::Indiscreet { status, from, to });
        }
        self.followed += 1;
        self.redirected = Some((status, from));
        self.hop.go(status, target);
        Ok(())
    }

    /// Reads the body to its end, if it is not larger than allowed.
    async fn read(&self, mut response: reqwest::Response) -> Result<Vec<u8>, Fault> {
        let status = response.status().as_u16();
        let limit = self.webhook.response.max_size;
        let announced = response.content_length().unwrap_or(0);
        if announced > limit as u64 {
            return Err(Fault::TooLarge { status, limit });
        }
        let mut body = Vec::with_capacity(announced as usize);
        loop {
            let chunk = response.chunk().await;
            match chunk.map_err(|error| self.explain(&error, "in the middle of its response"))? {
                None => return Ok(body),
                Some(chunk) if body.len() + chunk.len() > limit => {
                    return Err(Fault::TooLarge { status, limit });
                }
                Some(chunk) => body.extend_from_slice(&chunk),
            }
        }
    }
}

impl Shared {
    fn is_own_port(&self, url: &Url) -> bool {
        let own = self
            .own_ports
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let port = url.port_or_known_default();
        port.is_some_and(|port| own.contains(&port))
    }
}

/// The request as the webhook has it, with the delivery's id unless it has one.
fn first_hop(request: Request, id: &str) -> Hop {
    let mut headers = request.headers;
    let is_id = |header: &Header| header.name.eq_ignore_ascii_case(DELIVERY_HEADER);
    if !headers.iter().any(is_id) {
        headers.push(Header {
            name: DELIVERY_HEADER.to_owned(),
            value: id.to_owned(),
            is_private: false,
        });
    }
    Hop {
        method: method(request.method),
        url: request.url,
        headers,
        body: request.body,
        is_body_private: request.is_body_private,
    }
}

fn build(client: &reqwest::Client, hop: &Hop) -> Result<reqwest::Request, Fault> {
    let mut building = client.request(hop.method.clone(), hop.url.clone());
    for Header { name, value, .. } in &hop.headers {
        building = building.header(name, value);
    }
    if let Some(body) = &hop.body {
        building = building.body(body.clone());
    }
    building
        .build()
        .map_err(|error| Fault::Build(cause(&error)))
}

fn method(method: Method) -> reqwest::Method {
    match method {
        Method::Get => reqwest::Method::GET,
        Method::Post => reqwest::Method::POST,
        Method::Put => reqwest::Method::PUT,
        Method::Patch => reqwest::Method::PATCH,
        Method::Delete => reqwest::Method::DELETE,
        Method::Head => reqwest::Method::HEAD,
    }
}

#[cfg(test)]
mod tests;
