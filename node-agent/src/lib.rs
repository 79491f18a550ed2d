//! .
pub mod arbiter;
pub mod config;
pub mod console;
pub mod enroll;
pub mod local;
pub mod store;
pub mod tls;
