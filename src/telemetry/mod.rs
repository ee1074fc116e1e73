//! What happened: log lines and metrics. Both are values that `app` makes and hands out; nothing here is global but
//! the log subscriber itself.

pub mod log;
pub mod process;
pub mod registry;
pub mod services;
