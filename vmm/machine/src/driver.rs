//! The driver: the one thread that changes the VM's state.
//!
//! Everybody else (monitors, the migration's threads, vCPUs that end) hands it work as closures and,
//! where they need it, waits for the answer. So no lock guards the VM, and no two changes interleave.

use crate::control::ControlError;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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

/// What has become of work that was not withdrawn.
enum Work<R> {
    Done(R),
    /// Its result will come there.
    Begun(Receiver<R>),
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

fn ended() -> ControlError {
    ControlError::new("the VM has ended")
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

    /// As [`Driver::call`], with a bound of the caller's. Work that the driver has not begun by then is
    /// withdrawn: it will not be done behind the caller's back. Work that it has begun gets as much time
    /// once more.
    ///
    /// # Errors
    /// When the VM has ended, or the driver does not come to it in time.
    pub(crate) fn call_within<R: Send + 'static>(
        &self,
        bound: Duration,
        job: impl FnOnce(&mut T) -> R + Send + 'static,
    ) -> Result<R, ControlError> {
        match self.done_within(bound, job)? {
            Work::Done(result) => Ok(result),
            Work::Begun(result) => result.recv_timeout(bound).map_err(|error| match error {
                RecvTimeoutError::Disconnected => ended(),
                RecvTimeoutError::Timeout => ControlError::new(format!(
                    "the VM has worked on this for more than {} s; it may still take effect",
                    bound.as_secs()
                )),
            }),
        }
    }

    /// As [`Driver::call_within`], for work whose result decides who runs the guest: once the driver
    /// has begun, its result is waited for, however long that takes.
    ///
    /// # Errors
    /// When the VM has ended, or the driver does not begin in time. Nothing was done then.
    pub(crate) fn call_once_begun<R: Send + 'static>(
        &self,
        bound: Duration,
        job: impl FnOnce(&mut T) -> R + Send + 'static,
    ) -> Result<R, ControlError> {
        match self.done_within(bound, job)? {
            Work::Done(result) => Ok(result),
            Work::Begun(result) => result.recv().map_err(|_| ended()),
        }
    }

    /// What has become of work after `bound`, or before. The caller is woken once, when it is done: a guest may
    /// stand still meanwhile.
    fn done_within<R: Send + 'static>(
        &self,
        bound: Duration,
        job: impl FnOnce(&mut T) -> R + Send + 'static,
    ) -> Result<Work<R>, ControlError> {
        let (answer, result) = crossbeam_channel::bounded(1);
        let taken = Arc::new(AtomicBool::new(false));
        let theirs = taken.clone();
        self.post(move |subject| {
            if !theirs.swap(true, Ordering::AcqRel) {
                let _ = answer.send(job(subject));
            }
        });
        match result.recv_timeout(bound) {
            Ok(result) => Ok(Work::Done(result)),
            Err(RecvTimeoutError::Disconnected) => Err(ended()),
            Err(RecvTimeoutError::Timeout) if taken.swap(true, Ordering::AcqRel) => {
                Ok(Work::Begun(result))
            }
            Err(RecvTimeoutError::Timeout) => Err(ControlError::new(format!(
                "the VM was busy with something else for {} s; nothing was done",
                bound.as_secs()
            ))),
        }
    }

    /// Has work done that must not be left undone, and waits for it at most `bound`. It is done even
    /// when that is exceeded, in its turn.
    ///
    /// # Errors
    /// When the VM has ended, or the driver is late.
    pub(crate) fn must_within(
        &self,
        bound: Duration,
        job: impl FnOnce(&mut T) + Send + 'static,
    ) -> Result<(), ControlError> {
        let (answer, result) = crossbeam_channel::bounded(1);
        self.post(move |subject| {
            job(subject);
            let _ = answer.send(());
        });
        result.recv_timeout(bound).map_err(|error| match error {
            RecvTimeoutError::Disconnected => ended(),
            RecvTimeoutError::Timeout => ControlError::new(format!(
                "the VM was busy with something else for {} s; it is done late",
                bound.as_secs()
            )),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_must_be_done_is_done_even_when_it_is_late() {
        let (driver, inbox) = channel::<Vec<u32>>();
        let error = driver.must_within(Duration::from_millis(5), |list| list.push(1)).unwrap_err();
        assert!(error.0.contains("done late"), "{error}");
        let mut list = Vec::new();
        inbox.serve(&mut list, |list| !list.is_empty());
        assert_eq!(list, [1]);
    }

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
    fn work_that_a_busy_driver_did_not_begin_is_withdrawn() {
        let (driver, inbox) = channel::<Vec<u32>>();
        let error = driver.call_within(Duration::from_millis(10), |list| list.push(1)).unwrap_err();
        assert!(error.0.contains("nothing was done"), "{error}");
        driver.post(|list| list.push(2));
        let mut list = Vec::new();
        inbox.serve(&mut list, |list| !list.is_empty());
        assert_eq!(list, [2]);
    }

    #[test]
    fn work_that_was_begun_is_waited_for() {
        let (driver, inbox) = channel::<u32>();
        let thread = std::thread::spawn(move || inbox.serve(&mut 7, |_| false));
        let slow = |number: &mut u32| {
            std::thread::sleep(Duration::from_millis(2500));
            *number
        };
        assert_eq!(driver.call_once_begun(Duration::from_secs(2), slow), Ok(7));
        drop(driver);
        thread.join().unwrap();
    }
}
