//! Threads that do a disk's requests, several at once.

use crate::virtio::device::TransportHandle;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Work whose result is `T`.
pub(super) type Job<T> = Box<dyn FnOnce() -> T + Send>;

struct State<T> {
    waiting: VecDeque<Job<T>>,
    done: Vec<T>,
    /// Threads that wait for a job.
    idle: usize,
    transport: Option<TransportHandle>,
    closed: bool,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

impl<T> Shared<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pool of threads, each started when it is first needed. Every result kicks queue 0.
pub(super) struct Pool<T> {
    shared: Arc<Shared<T>>,
    threads: usize,
    most_threads: usize,
    /// Jobs submitted whose results were not taken.
    in_flight: usize,
}

impl<T> std::fmt::Debug for Pool<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool")
            .field("threads", &self.threads)
            .field("in_flight", &self.in_flight)
            .finish_non_exhaustive()
    }
}

impl<T: Send + 'static> Pool<T> {
    /// A pool of at most so many threads, as yet of none.
    pub(super) fn new(most_threads: usize) -> Self {
        let state = State {
            waiting: VecDeque::new(),
            done: Vec::new(),
            idle: 0,
            transport: None,
            closed: false,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        Self { shared, threads: 0, most_threads, in_flight: 0 }
    }

    /// Sets whom to kick.
    pub(super) fn connect(&self, transport: TransportHandle) {
        self.shared.state().transport = Some(transport);
    }

    /// Jobs submitted whose results were not taken.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether there is a thread for every job and one more.
    pub(super) fn has_room(&self) -> bool {
        self.in_flight < self.most_threads
    }

    /// Has a thread do the job; without any thread it is done here and now.
    pub(super) fn submit(&mut self, job: Job<T>) {
        self.in_flight += 1;
        let free = {
            let state = self.shared.state();
            state.idle > state.waiting.len()
        };
        if !free && self.threads < self.most_threads {
            self.start_thread();
        }
        if self.threads == 0 {
            let result = job();
            self.shared.finish(result);
            return;
        }
        self.shared.state().waiting.push_back(job);
        self.shared.changed.notify_all();
    }

    fn start_thread(&mut self) {
        let shared = self.shared.clone();
        // Not joined: a system call on a disk may take for ever. It ends with the pool otherwise.
        let builder = std::thread::Builder::new().name("virtio-blk-io".to_owned());
        match builder.spawn(move || shared.work()) {
            Ok(_) => self.threads += 1,
            Err(error) => log::warn!("no thread for a disk beside {}: {error}", self.threads),
        }
    }

    /// The results that are there.
    pub(super) fn take_done(&mut self) -> Vec<T> {
        let done = std::mem::take(&mut self.shared.state().done);
        self.in_flight -= done.len();
        done
    }

    /// Waits for all jobs; their results.
    pub(super) fn await_done(&mut self) -> Vec<T> {
        let mut state = self.shared.state();
        while state.done.len() < self.in_flight {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        self.in_flight = 0;
        std::mem::take(&mut state.done)
    }
}

impl<T> Drop for Pool<T> {
    /// Jobs that no thread has begun are dropped.
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.closed = true;
        state.waiting.clear();
        self.shared.changed.notify_all();
    }
}

impl<T> Shared<T> {
    /// A thread.
    fn work(&self) {
        while let Some(job) = self.next() {
            let result = job();
            self.finish(result);
        }
    }

    fn next(&self) -> Option<Job<T>> {
        let mut state = self.state();
        loop {
            if state.closed {
                return None;
            }
            if let Some(job) = state.waiting.pop_front() {
                return Some(job);
            }
            state.idle += 1;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    fn finish(&self, result: T) {
        let mut state = self.state();
        state.done.push(result);
        self.changed.notify_all();
        let transport = state.transport.clone();
        drop(state);
        if let Some(transport) = transport {
            transport.kick(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn jobs_run_beside_each_other_and_all_results_come() {
        let mut pool = Pool::new(2);
        let (to_first, from_second) = mpsc::channel();
        let (to_second, from_first) = mpsc::channel();
        // Each waits for the other.
        pool.submit(Box::new(move || {
            to_second.send(()).unwrap();
            from_second.recv().unwrap();
            1
        }));
        pool.submit(Box::new(move || {
            to_first.send(()).unwrap();
            from_first.recv().unwrap();
            2
        }));
        assert!(!pool.has_room());
        let mut results = pool.await_done();
        results.sort_unstable();
        assert_eq!(results, [1, 2]);
        assert_eq!((pool.in_flight(), pool.threads), (0, 2));
    }

    #[test]
    fn a_pool_without_threads_does_the_job_at_once() {
        let mut pool = Pool::new(0);
        pool.submit(Box::new(|| 7));
        assert_eq!(pool.take_done(), [7]);
        assert!(pool.await_done().is_empty());
    }

    #[test]
    fn jobs_beyond_the_threads_wait_for_one() {
        let mut pool = Pool::new(1);
        (0..20).for_each(|number| pool.submit(Box::new(move || number)));
        assert_eq!(pool.await_done(), (0..20).collect::<Vec<_>>());
        assert_eq!(pool.threads, 1);
    }
}
