//! The fault plane: page-state table, userfaultfd, installing pages.
