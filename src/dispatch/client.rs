//! HTTP requests through reqwest: hop by hop along redirects, under one time
//! limit, to allowed addresses alone, and no more of a response than asked for.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use reqwest::header::LOCATION;
use reqwest::redirect::Policy;
use rustls::ClientConfig;
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::address::{Refusal, Resolver, Rules, World, literal};
use super::explain::{Fault, SendError, Server, cause, explain, place};
use super::proxy::Proxies;
use super::received::Received;
use super::redirect::{Hop, NoTarget, is_redirect, target};
use super::tls;
use crate::model::Webhook;
use crate::model::request::{Header, Method, Request};
use crate::model::transport::{Proxy, Tls, Transport};

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
    made: Mutex<HashMap<Way, reqwest::Client>>,
}

/// What connections can be shared among: each has a client of reqwest's, made when
/// it is first needed.
#[derive(Clone, PartialEq, Eq, Hash)]
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
            Proxy::Server(url) => Some(url.clone()),
            Proxy::Environment | Proxy::Direct => None,
        };
        let usual = Way {
            rules: Rules::default(),
            proxy,
        };
        client.0.by(usual).map_err(SetupError)?;
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
    fn by(&self, way: Way) -> Result<reqwest::Client, String> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = made.get(&way) {
            return Ok(client.clone());
        }
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
        made.insert(way, client.clone());
        Ok(client)
    }
}

/// An attempt on its way from hop to hop.
struct Attempt<'a> {
    client: &'a Client,
    webhook: &'a Webhook,
    deadline: Instant,
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
            client: self,
            webhook,
            deadline: Instant::now() + webhook.timeout,
            redirected: None,
            followed: 0,
            was_public: false,
            status: None,
        };
        let received = attempt.run(first_hop(request, id)).await;
        let is_redirected = attempt.redirected.is_some();
        received.map_err(|fault| SendError::new(fault, is_redirected, attempt.status))
    }
}

impl Attempt<'_> {
    async fn run(&mut self, mut hop: Hop) -> Result<Received, Fault> {
        loop {
            let (server, mut response) = self.request(&hop).await?;
            let status = response.status().as_u16();
            let headers = std::mem::take(response.headers_mut());
            let mut remark = None;
            if is_redirect(status) {
                match target(
                    &hop.url,
                    headers.get(LOCATION).map(|value| value.as_bytes()),
                ) {
                    Ok(target) if self.webhook.redirects > 0 => {
                        self.follow(status, &hop, &target)?;
                        hop = hop.next(status, target);
                        continue;
                    }
                    Err(why) if self.webhook.redirects > 0 && why != NoTarget::Missing => {
                        let from = place(&hop.url);
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
                    self.read(response, &server).await?
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
    async fn request(&mut self, hop: &Hop) -> Result<(Server, reqwest::Response), Fault> {
        let shared = &self.client.0;
        let url = &hop.url;
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
        // What is behind a proxy cannot be checked.
        let proxy = match guard {
            Some(_) => None,
            None => shared.proxies.for_url(url),
        };
        let server = Server::of(url, proxy);
        let rules = Rules {
            no_private: self.was_public,
            no_metadata: guard.is_some() || self.is_sent_elsewhere(url),
            no_own: (guard.is_some() || self.redirected.is_some()) && shared.is_own_port(url),
        };
        rules
            .judge_literal(url, &shared.world)
            .map_err(|why| self.refused(url, why))?;
        let way = Way {
            rules,
            proxy: proxy.cloned(),
        };
        let client = shared.by(way).map_err(Fault::Build)?;
        let request = build(&client, hop)?;
        let sent = timeout_at(self.deadline, client.execute(request)).await;
        let limit = self.webhook.timeout;
        let silent = |_| Fault::Silent {
            server: server.name().to_owned(),
            limit,
        };
        let response = sent.map_err(silent)?.map_err(|error| {
            let when = "before its response was complete";
            self.explain(&error, &server, url, when)
        })?;
        let address = match proxy {
            None => response.remote_addr().map(|peer| peer.ip()),
            // Whom a proxy connects to it does not say; a name may be anybody's.
            Some(_) => literal(url),
        };
        self.was_public |= address.is_none_or(|address| !(shared.world.is_private)(address));
        Ok((server, response))
    }

    fn explain(
        &self,
        error: &reqwest::Error,
        server: &Server,
        url: &Url,
        when: &'static str,
    ) -> Fault {
        let connect_timeout = self.webhook.transport.connect_timeout;
        let fault = explain(error, server, connect_timeout, when);
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

    /// Counts a redirect.
    fn follow(&mut self, status: u16, hop: &Hop, target: &Url) -> Result<(), Fault> {
        let (from, to) = (place(&hop.url), place(target));
        let limit = self.webhook.redirects;
        if self.followed == limit {
            return Err(Fault::TooManyRedirects {
                status,
                from,
                to,
                limit,
            });
        }
        if hop.would_tell(status, target) {
            return Err(Fault::Indiscreet { status, from, to });
        }
        self.followed += 1;
        self.redirected = Some((status, from));
        Ok(())
    }

    /// Reads the body to its end, if it is not larger than allowed.
    async fn read(
        &self,
        mut response: reqwest::Response,
        server: &Server,
    ) -> Result<Vec<u8>, Fault> {
        let status = response.status().as_u16();
        let limit = self.webhook.response.max_size;
        let announced = response.content_length().unwrap_or(0);
        if announced > limit as u64 {
            return Err(Fault::TooLarge { status, limit });
        }
        let url = response.url().clone();
        let reading = async {
            let mut body = Vec::with_capacity(announced as usize);
            loop {
                let chunk = response.chunk().await.map_err(|error| {
                    self.explain(&error, server, &url, "in the middle of its response")
                })?;
                match chunk {
                    None => return Ok(body),
                    Some(chunk) if body.len() + chunk.len() > limit => {
                        return Err(Fault::TooLarge { status, limit });
                    }
                    Some(chunk) => body.extend_from_slice(&chunk),
                }
            }
        };
        let read = timeout_at(self.deadline, reading).await;
        read.unwrap_or_else(|_| {
            Err(Fault::Slow {
                server: server.name().to_owned(),
                limit: self.webhook.timeout,
            })
        })
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
