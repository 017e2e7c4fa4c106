//! virtio-balloon with free page reporting (specification, section 5.5).

mod config;
mod device;
mod saved;
#[cfg(test)]
mod tests;

pub use config::Balloon;
pub use device::{BalloonFeatures, GivenBack, VirtioBalloon};
pub use saved::SavedVirtioBalloon;
