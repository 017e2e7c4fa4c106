//! Modes, options and addresses: one table, one test a line.
#![allow(missing_docs)]

use umem_tests::matrix::{
    Case,
    Check::{
        Background, Connections, Differences, Discarded, Faults, Mapped, Neighbours, NotBefore,
        Packed, RamInMemfd,
    },
    HYBRID, Mode, NO_NEIGHBOURS, POSTCOPY, PRECOPY, Via,
};

/// A test of its own for each case.
macro_rules! matrix {
    ($($name:ident: $case:expr;)*) => {
        $(
            #[test]
            fn $name() {
                let case: Case = $case;
                case.run();
            }
        )*
    };
}

/// 44 MiB of the guest's memory cannot be compressed.
const SLOW_ROUNDS: &[&str] = &["max-bandwidth 40M"];
const SLOW_BACKGROUND: &[&str] = &["max-postcopy-bandwidth 40M"];
const LZ4: &[&str] = &["multifd-compression lz4"];
const ZSTD: &[&str] = &["multifd-compression zstd"];
const LZ4_CHANGES: &[&str] = &["multifd-compression lz4", "xor-delta on"];
/// Slow enough that more than one round is worth it.
const SLOW_LZ4_CHANGES: &[&str] = &["multifd-compression lz4", "xor-delta on", "max-bandwidth 40M"];
const ZSTD_CHANGES: &[&str] =
    &["multifd-compression zstd", "xor-delta on", "max-bandwidth 40M", "multifd-channels 2"];
const CHANGES_ALONE: &[&str] = &["multifd-compression none", "xor-delta on"];
const FOUR: &[&str] = &["multifd-channels 4"];

matrix! {
    precopy: PRECOPY;
    precopy_over_four_connections:
        Case { parameters: FOUR, via: Via::Counted, checks: &[Connections(4)], ..PRECOPY };
    precopy_with_a_limit_of_bandwidth:
        Case { parameters: SLOW_ROUNDS, checks: &[NotBefore(800.0)], ..PRECOPY };
    precopy_over_a_unix_socket: Case { via: Via::Unix, ..PRECOPY };
    precopy_over_one_descriptor: Case { via: Via::Descriptor, ..PRECOPY };
    precopy_over_one_descriptor_with_four_connections_in_it:
        Case { via: Via::Descriptor, parameters: FOUR, ..PRECOPY };
    precopy_of_a_stopped_guest: Case { stopped: true, ..PRECOPY };

    precopy_packed_by_lz4_with_changes:
        Case { parameters: LZ4_CHANGES, checks: &[Packed("lz4"), Differences], ..PRECOPY };
    precopy_packed_by_zstd_with_changes:
        Case { parameters: ZSTD_CHANGES, checks: &[Packed("zstd"), Differences], ..PRECOPY };
    precopy_with_changes_alone:
        Case { parameters: CHANGES_ALONE, checks: &[Differences], ..PRECOPY };
    hybrid_packed_by_lz4_with_changes: Case {
        mode: Mode::Hybrid(3),
        parameters: SLOW_LZ4_CHANGES,
        checks: &[Packed("lz4"), Differences],
        ..HYBRID
    };
    hybrid_packed_by_zstd_with_changes_over_one_descriptor: Case {
        mode: Mode::Hybrid(3),
        via: Via::Descriptor,
        parameters: ZSTD_CHANGES,
        checks: &[Packed("zstd"), Differences],
        ..HYBRID
    };
    postcopy_packed_by_lz4: Case { parameters: LZ4, checks: &[Packed("lz4")], ..POSTCOPY };
    postcopy_packed_by_zstd: Case { parameters: ZSTD, checks: &[Packed("zstd")], ..POSTCOPY };

    hybrid: HYBRID;
    hybrid_with_three_rounds: Case { mode: Mode::Hybrid(3), ..HYBRID };
    hybrid_with_a_limit_of_bandwidth_in_its_round:
        Case { parameters: SLOW_ROUNDS, checks: &[NotBefore(800.0), Discarded], ..HYBRID };
    hybrid_on_demand_alone_found_by_the_vcpu: Case {
        options: "-n",
        neighbours: NO_NEIGHBOURS,
        destination: "-postcopy-fault vcpu",
        parameters: SLOW_ROUNDS,
        checks: &[Faults, Discarded],
        ..HYBRID
    };
    hybrid_on_demand_alone_found_by_the_kernel: Case {
        options: "-n",
        neighbours: NO_NEIGHBOURS,
        destination: "-postcopy-fault uffd",
        parameters: SLOW_ROUNDS,
        checks: &[Faults, Discarded],
        ..HYBRID
    };
    hybrid_with_a_moving_background:
        Case { options: "-m", parameters: SLOW_ROUNDS, checks: &[Background], ..HYBRID };
    hybrid_with_neighbours:
        Case { neighbours: "16 4", parameters: SLOW_ROUNDS, checks: &[Discarded], ..HYBRID };
    hybrid_over_four_connections:
        Case { parameters: FOUR, via: Via::Counted, checks: &[Connections(4)], ..HYBRID };
    hybrid_with_faults_found_by_the_kernel: Case { destination: "-postcopy-fault uffd", ..HYBRID };
    hybrid_into_a_page_cache_and_mapped_when_touched:
        Case { destination: "-postcopy-flags 0", checks: &[RamInMemfd(true)], ..HYBRID };
    hybrid_into_a_page_cache_and_mapped_on_arrival: Case {
        destination: "-postcopy-flags 1 -postcopy-fault uffd",
        checks: &[RamInMemfd(true)],
        ..HYBRID
    };
    hybrid_over_a_unix_socket: Case { via: Via::Unix, ..HYBRID };
    hybrid_over_one_descriptor: Case { via: Via::Descriptor, ..HYBRID };
    hybrid_of_a_stopped_guest: Case { stopped: true, ..HYBRID };

    postcopy_with_faults_found_by_the_vcpu:
        Case { destination: "-postcopy-fault vcpu", checks: &[Faults, RamInMemfd(false)], ..POSTCOPY };
    postcopy_with_faults_found_by_the_kernel:
        Case { destination: "-postcopy-fault uffd", checks: &[Faults, RamInMemfd(false)], ..POSTCOPY };
    postcopy_on_demand_alone_found_by_the_vcpu: Case {
        options: "-n",
        neighbours: NO_NEIGHBOURS,
        destination: "-postcopy-fault vcpu",
        checks: &[Faults],
        ..POSTCOPY
    };
    postcopy_on_demand_alone_found_by_the_kernel: Case {
        options: "-n",
        neighbours: NO_NEIGHBOURS,
        destination: "-postcopy-fault uffd",
        checks: &[Faults],
        ..POSTCOPY
    };
    postcopy_on_demand_with_neighbours: Case {
        options: "-n", neighbours: "16 4", checks: &[Faults, Neighbours(20)], ..POSTCOPY
    };
    postcopy_with_a_moving_background:
        Case { options: "-m", neighbours: "8", checks: &[Background], ..POSTCOPY };
    postcopy_with_a_limit_of_bandwidth:
        Case { parameters: SLOW_BACKGROUND, checks: &[NotBefore(800.0), Faults], ..POSTCOPY };
    postcopy_over_four_connections:
        Case { parameters: FOUR, via: Via::Counted, checks: &[Connections(4)], ..POSTCOPY };
    postcopy_over_one_descriptor_with_four_connections_in_it:
        Case { via: Via::Descriptor, parameters: FOUR, ..POSTCOPY };
    postcopy_into_a_page_cache_and_mapped_when_touched: Case {
        destination: "-postcopy-flags 0",
        stopped: true,
        checks: &[RamInMemfd(true), Mapped(false)],
        ..POSTCOPY
    };
    postcopy_into_a_page_cache_and_mapped_on_arrival: Case {
        destination: "-postcopy-flags 1",
        stopped: true,
        checks: &[RamInMemfd(true), Mapped(true)],
        ..POSTCOPY
    };
    postcopy_into_a_page_cache_with_faults_found_by_the_kernel: Case {
        destination: "-postcopy-flags 0 -postcopy-fault uffd",
        checks: &[Faults, RamInMemfd(true)],
        ..POSTCOPY
    };
    postcopy_of_a_stopped_guest: Case { stopped: true, ..POSTCOPY };
}
