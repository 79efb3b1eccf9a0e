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
mod permissions;
mod reload;
mod ring;
mod support;
mod third_party;
mod webhook_cases;
