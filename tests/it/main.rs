//! Tests of pinhook as a whole, in one binary so that it links once.

mod aliases;
mod broker_wire;
mod budgets;
mod cli;
mod config_errors;
mod events;
mod example_config;
mod flow;
mod hostile;
mod layers;
mod lifecycle;
mod mqtt311;
mod mqtt5;
mod permissions;
mod qos2;
mod real_clients;
mod recipes;
mod reload;
mod ring;
mod scale;
mod sessions;
mod shared;
mod support;
mod third_party;
mod webhook_cases;
mod wills;
