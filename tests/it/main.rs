//! Tests of pinhook as a whole, in one binary so that it links once.

mod broker_wire;
mod budgets;
mod cli;
mod config_errors;
mod events;
mod example_config;
mod hostile;
mod layers;
mod lifecycle;
mod net;
mod permissions;
mod recipes;
mod reload;
mod ring;
mod scale;
mod support;
mod third_party;
mod tls;
mod webhook_cases;
mod websocket;
