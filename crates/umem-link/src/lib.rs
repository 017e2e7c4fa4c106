//! The data plane: lanes, sockets and the threads that move pages.
