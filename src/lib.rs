//! pinhook
pub mod access;
pub mod app;
pub mod broker;
pub mod cli;
pub mod config;
pub mod dispatch;
pub mod hub;
pub mod model;
pub mod mqtt;
pub mod net;
