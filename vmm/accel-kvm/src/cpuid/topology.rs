//! What differs between the vCPUs of a VM: each is a core of its own in one package, with one thread.
//!
//! Intel's manual, volume 3, "Hierarchical Mapping of Shared Resources"; AMD's volume 3, E.5.

use super::table::{Leaf, Register, Table};
use Register::{Ebx, Ecx, Edx};

/// Types of levels in leaves 0xb and 0x1f, as ECX has them.
const THREADS: u32 = 1 << 8;
const CORES: u32 = 2 << 8;

/// The table for one vCPU of so many.
pub(crate) fn for_vcpu(common: &Table, number: u32, vcpus: u32) -> Table {
    let mut table = common.clone();
    // APIC numbers are given out in order; so many bits tell the cores apart.
    let bits = vcpus.next_power_of_two().trailing_zeros();
    table.change(1, 0, Ebx, |ebx| ebx & 0xffff | (vcpus.min(0xff)) << 16 | (number & 0xff) << 24);
    table.change(1, 0, Edx, |edx| edx & !(1 << 28) | u32::from(vcpus > 1) << 28);
    caches(&mut table, 4, vcpus, 26);
    caches(&mut table, 0x8000_001d, vcpus, 32);
    for function in [0xb, 0x1f] {
        if table.leaf(function, 0).is_some() {
            levels(&mut table, function, number, vcpus, bits);
        }
    }
    if table.leaf(0x8000_0008, 0).is_some_and(|_| table.vendor() == "AuthenticAMD") {
        table.change(0x8000_0008, 0, Ecx, |ecx| ecx & !0xf0ff | (vcpus - 1).min(0xff) | bits << 12);
        table.change(0x8000_0001, 0, Ecx, |ecx| ecx & !2 | u32::from(vcpus > 1) << 1);
        // APIC number; number of the core; one node.
        table.put(Leaf::new(0x8000_001e, None, [number, number & 0xff, 0, 0]));
    }
    table
}

/// Caches of the first and second level belong to a core, others to all.
fn caches(table: &mut Table, function: u32, vcpus: u32, cores_at: u32) {
    for leaf in table.0.iter_mut().filter(|leaf| leaf.function == function) {
        let [eax, ..] = &mut leaf.answer;
        if *eax & 0x1f == 0 {
            continue;
        }
        let sharing = if *eax >> 5 & 7 <= 2 { 0 } else { (vcpus - 1).min(0xfff) };
        *eax = *eax & !(0xfff << 14) | sharing << 14;
        if cores_at < 32 {
            let cores = (vcpus.next_power_of_two() - 1).min(0x3f);
            *eax = *eax & !(0x3f << cores_at) | cores << cores_at;
        }
    }
}

fn levels(table: &mut Table, function: u32, number: u32, vcpus: u32, bits: u32) {
    table.0.retain(|leaf| leaf.function != function);
    table.put(Leaf::new(function, Some(0), [0, 1, THREADS, number]));
    table.put(Leaf::new(function, Some(1), [bits, vcpus & 0xffff, CORES | 1, number]));
    table.put(Leaf::new(function, Some(2), [0, 0, 2, number]));
}

#[cfg(test)]
mod tests {
    use super::Register::Eax;
    use super::*;

    fn common(vendor: [u32; 3]) -> Table {
        let [ebx, edx, ecx] = vendor;
        Table(vec![
            Leaf::new(0, None, [0x1f, ebx, ecx, edx]),
            Leaf::new(1, None, [0, 0x1234_5608, 0, 1 << 28]),
            Leaf::new(4, Some(0), [0xfc00_4121, 0, 0, 0]),
            Leaf::new(4, Some(3), [0xfc1f_c163, 0, 0, 0]),
            Leaf::new(4, Some(4), [0; 4]),
            Leaf::new(0xb, Some(0), [9; 4]),
            Leaf::new(0x1f, Some(0), [0; 4]),
            Leaf::new(0x8000_0001, None, [0, 0, 2, 0]),
            Leaf::new(0x8000_0008, None, [0x3030, 0, 0x7001, 0]),
        ])
    }

    const INTEL: [u32; 3] = [0x756e_6547, 0x4965_6e69, 0x6c65_746e];
    const AMD: [u32; 3] = [0x6874_7541, 0x6974_6e65, 0x444d_4163];

    #[test]
    fn numbers_and_counts() {
        for (number, vcpus, ebx, bits, ht) in [
            (0, 1, 0x0001_5608, 0, 0),
            (1, 2, 0x0102_5608, 1, 1),
            (2, 3, 0x0203_5608, 2, 1),
            (200, 250, 0xc8fa_5608, 8, 1),
        ] {
            let table = for_vcpu(&common(INTEL), number, vcpus);
            assert_eq!(table.get(1, 0, Ebx), ebx, "{number} of {vcpus}");
            assert_eq!(table.get(1, 0, Edx) >> 28, ht);
            for leaf in [0xb, 0x1f] {
                let level = |at| table.leaf(leaf, at).unwrap().answer;
                assert_eq!(level(0), [0, 1, 0x100, number]);
                assert_eq!(level(1), [bits, vcpus, 0x201, number]);
                assert_eq!(level(2), [0, 0, 2, number]);
            }
            assert!(table.leaf(0x8000_001e, 0).is_none(), "not on Intel's");
        }
    }

    #[test]
    fn caches_say_who_shares_them() {
        let table = for_vcpu(&common(INTEL), 0, 3);
        assert_eq!(table.get(4, 0, Eax), 0x0c00_0121, "of one core");
        assert_eq!(table.get(4, 3, Eax), 0x0c00_8163, "of three");
        assert_eq!(table.get(4, 4, Eax), 0, "the last leaf");
    }

    #[test]
    fn amd_counts_in_leaves_of_its_own() {
        let table = for_vcpu(&common(AMD), 2, 3);
        assert_eq!(table.get(0x8000_0008, 0, Ecx), 0x2002);
        assert_eq!(table.get(0x8000_0001, 0, Ecx), 2);
        assert_eq!(table.leaf(0x8000_001e, 0).unwrap().answer, [2, 2, 0, 0]);
        let alone = for_vcpu(&common(AMD), 0, 1);
        assert_eq!(alone.get(0x8000_0001, 0, Ecx), 0);
    }
}
