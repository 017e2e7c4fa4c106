//! Announcing the guest on its networks, from the host's side, where it arrives: several times, as the
//! first may come before a switch listens.

use crate::control::MigrationParameters;
use devices::Announcer;
use std::sync::Arc;
use std::time::Duration;

/// The pauses before the announcements.
pub(crate) fn pauses(parameters: &MigrationParameters) -> impl Iterator<Item = Duration> + use<> {
    let MigrationParameters {
        announce_initial, announce_step, announce_max, announce_rounds, ..
    } = *parameters;
    (0..u64::from(announce_rounds)).map(move |round| {
        // The first goes at once.
        let pause = round.checked_sub(1).map_or(0, |longer| {
            announce_initial.saturating_add(longer.saturating_mul(announce_step)).min(announce_max)
        });
        Duration::from_millis(pause)
    })
}

/// Announces, in a thread of its own, for as long as the guest is ours.
pub(crate) fn begin(
    announcers: Vec<Announcer>,
    parameters: &MigrationParameters,
    ours: Arc<dyn Fn() -> bool + Send + Sync>,
) {
    if announcers.is_empty() {
        return;
    }
    let pauses: Vec<Duration> = pauses(parameters).collect();
    let body = move || {
        for pause in pauses {
            std::thread::sleep(pause);
            if !ours() {
                return;
            }
            for announcer in &announcers {
                if let Err(error) = announcer.announce() {
                    log::debug!("the guest is not announced this time: {error}");
                }
            }
        }
    };
    if let Err(error) = std::thread::Builder::new().name("announce".to_owned()).spawn(body) {
        log::warn!("the guest is not announced on its networks: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_their_longest() {
        let parameters = MigrationParameters {
            announce_initial: 50,
            announce_step: 100,
            announce_max: 200,
            announce_rounds: 4,
            ..MigrationParameters::default()
        };
        let milliseconds: Vec<_> = pauses(&parameters).map(|pause| pause.as_millis()).collect();
        assert_eq!(milliseconds, [0, 50, 150, 200]);
    }
}
