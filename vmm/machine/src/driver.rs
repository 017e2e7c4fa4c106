//! The driver: the one thread that changes the VM's state.
//!
//! Everybody else (monitors, the migration's threads, vCPUs that end) hands it work as closures and,
//! where they need it, waits for the answer. So no lock guards the VM, and no two changes interleave.

use crate::control::ControlError;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

/// Longest time that a monitor waits for the driver. The driver's own waits are shorter.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

type Job<T> = Box<dyn FnOnce(&mut T) + Send>;

/// What the driver's thread takes work from.
pub(crate) struct Inbox<T> {
    jobs: Receiver<Job<T>>,
}

/// Hands work to the driver. Cheap to clone.
pub(crate) struct Driver<T> {
    jobs: Sender<Job<T>>,
}

impl<T> Clone for Driver<T> {
    fn clone(&self) -> Self {
        Self { jobs: self.jobs.clone() }
    }
}

impl<T> std::fmt::Debug for Driver<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Driver")
    }
}

/// A driver's two ends.
#[must_use]
pub(crate) fn channel<T>() -> (Driver<T>, Inbox<T>) {
    let (sender, receiver) = crossbeam_channel::unbounded();
    (Driver { jobs: sender }, Inbox { jobs: receiver })
}

impl<T> Inbox<T> {
    /// Runs jobs on `subject` until all [`Driver`]s are gone or `ended` says so.
    pub(crate) fn serve(&self, subject: &mut T, mut ended: impl FnMut(&T) -> bool) {
        while !ended(subject) {
            let Ok(job) = self.jobs.recv() else { return };
            job(subject);
        }
    }
}

impl<T: 'static> Driver<T> {
    /// Leaves work and goes on. Does nothing when the VM has ended.
    pub(crate) fn post(&self, job: impl FnOnce(&mut T) + Send + 'static) {
        let _ = self.jobs.send(Box::new(job));
    }

    /// Has work done and waits for its result.
    ///
    /// # Errors
    /// When the VM has ended, or the driver does not come to it within [`ANSWER_TIMEOUT`].
    pub(crate) fn call<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut T) -> R + Send + 'static,
    ) -> Result<R, ControlError> {
        self.call_within(ANSWER_TIMEOUT, job)
    }

    /// As [`Driver::call`], with a bound of the caller's.
    ///
    /// # Errors
    /// When the VM has ended, or the driver does not come to it in time.
    pub(crate) fn call_within<R: Send + 'static>(
        &self,
        bound: Duration,
        job: impl FnOnce(&mut T) -> R + Send + 'static,
    ) -> Result<R, ControlError> {
        let (answer, result) = crossbeam_channel::bounded(1);
        self.post(move |subject| {
            let _ = answer.send(job(subject));
        });
        result.recv_timeout(bound).map_err(|error| match error {
            RecvTimeoutError::Disconnected => ControlError::new("the VM has ended"),
            RecvTimeoutError::Timeout => ControlError::new(format!(
                "the VM did not answer within {} s; the command may still take effect",
                bound.as_secs()
            )),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_run_in_order_on_the_subject_and_answer() {
        let (driver, inbox) = channel::<Vec<u32>>();
        let thread = std::thread::spawn(move || {
            let mut subject = Vec::new();
            inbox.serve(&mut subject, |subject| subject.len() == 3);
            subject
        });
        driver.post(|list| list.push(1));
        driver.post(|list| list.push(2));
        assert_eq!(driver.call(|list| list.len()).unwrap(), 2);
        driver.post(|list| list.push(3));
        assert_eq!(thread.join().unwrap(), [1, 2, 3]);
        assert_eq!(driver.call(|_| ()).unwrap_err().0, "the VM has ended");
    }

    #[test]
    fn a_busy_driver_is_reported_in_bounded_time() {
        let (driver, inbox) = channel::<()>();
        let error = driver.call_within(Duration::from_millis(10), |()| ()).unwrap_err();
        assert!(error.0.contains("did not answer"), "{error}");
        drop(inbox);
    }
}
