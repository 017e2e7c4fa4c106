//! Boards, VM lifecycle, and the glue to the migration engine.
