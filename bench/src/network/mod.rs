//! Links that are not just loopback: a proxy that delays, and a pair of namespaces with a shaped link.

mod proxy;
mod shaped;

pub use proxy::DelayProxy;
pub use shaped::Shaped;
