//! Tests of pinhook as a whole, in one binary so that it links once.

mod broker_wire;
mod cli;
mod config_errors;
mod example_config;
mod hostile;
mod layers;
mod lifecycle;
mod permissions;
mod ring;
mod scale;
mod support;
