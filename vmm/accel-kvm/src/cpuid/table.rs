//! A table of CPUID leaves.

use crate::host::KvmError;
use kvm_bindings::{
    CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2,
};
use serde::{Deserialize, Serialize};

/// A register of CPUID's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

/// The answer for one leaf.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Leaf {
    /// EAX when it is asked for.
    pub(crate) function: u32,
    /// ECX when it is asked for, if that matters.
    pub(crate) index: u32,
    /// Whether that matters, and whatever else KVM says of the leaf.
    pub(crate) flags: u32,
    /// EAX, EBX, ECX, EDX of the answer.
    pub(crate) answer: [u32; 4],
}

impl Leaf {
    pub(crate) fn new(function: u32, index: Option<u32>, answer: [u32; 4]) -> Self {
        let flags = index.map_or(0, |_| KVM_CPUID_FLAG_SIGNIFCANT_INDEX);
        Self { function, index: index.unwrap_or(0), flags, answer }
    }

    pub(crate) fn register(&self, register: Register) -> u32 {
        let [eax, ebx, ecx, edx] = self.answer;
        match register {
            Register::Eax => eax,
            Register::Ebx => ebx,
            Register::Ecx => ecx,
            Register::Edx => edx,
        }
    }

    pub(crate) fn register_mut(&mut self, register: Register) -> &mut u32 {
        let [eax, ebx, ecx, edx] = &mut self.answer;
        match register {
            Register::Eax => eax,
            Register::Ebx => ebx,
            Register::Ecx => ecx,
            Register::Edx => edx,
        }
    }
}

/// All leaves that are answered.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Table(pub(crate) Vec<Leaf>);

impl Table {
    /// Most leaves that KVM takes.
    pub(crate) const MOST: usize = KVM_MAX_CPUID_ENTRIES;

    pub(crate) fn of_kernel(leaves: &CpuId) -> Self {
        let leaf = |entry: &kvm_cpuid_entry2| Leaf {
            function: entry.function,
            index: entry.index,
            flags: entry.flags,
            answer: [entry.eax, entry.ebx, entry.ecx, entry.edx],
        };
        Self(leaves.as_slice().iter().map(leaf).collect())
    }

    pub(crate) fn for_kernel(&self) -> Result<CpuId, KvmError> {
        let entry = |leaf: &Leaf| {
            let [eax, ebx, ecx, edx] = leaf.answer;
            let (function, index, flags) = (leaf.function, leaf.index, leaf.flags);
            kvm_cpuid_entry2 { function, index, flags, eax, ebx, ecx, edx, padding: [0; 3] }
        };
        let entries: Vec<_> = self.0.iter().map(entry).collect();
        CpuId::from_entries(&entries).map_err(|_| KvmError::Lacks("room for so many CPUID leaves"))
    }

    pub(crate) fn leaf(&self, function: u32, index: u32) -> Option<&Leaf> {
        self.0.iter().find(|leaf| leaf.function == function && leaf.index == index)
    }

    pub(crate) fn leaf_mut(&mut self, function: u32, index: u32) -> Option<&mut Leaf> {
        self.0.iter_mut().find(|leaf| leaf.function == function && leaf.index == index)
    }

    /// A register of a leaf; 0 where there is no such leaf.
    pub(crate) fn get(&self, function: u32, index: u32, register: Register) -> u32 {
        self.leaf(function, index).map_or(0, |leaf| leaf.register(register))
    }

    /// Puts a leaf in the place of the one of that number, or behind all.
    pub(crate) fn put(&mut self, new: Leaf) {
        match self.leaf_mut(new.function, new.index) {
            Some(leaf) => *leaf = new,
            None => self.0.push(new),
        }
    }

    /// Changes a register of a leaf that is there.
    pub(crate) fn change(
        &mut self,
        function: u32,
        index: u32,
        register: Register,
        change: impl FnOnce(u32) -> u32,
    ) {
        if let Some(leaf) = self.leaf_mut(function, index) {
            let value = leaf.register_mut(register);
            *value = change(*value);
        }
    }

    /// The maker's name, as leaf 0 spells it.
    pub(crate) fn vendor(&self) -> String {
        let word = |register| self.get(0, 0, register).to_le_bytes();
        let bytes = [word(Register::Ebx), word(Register::Edx), word(Register::Ecx)].concat();
        bytes.iter().map(|&byte| if byte.is_ascii_graphic() { byte as char } else { '.' }).collect()
    }

    /// The first leaf in which two tables differ, for people.
    pub(crate) fn difference(&self, other: &Self) -> Option<String> {
        let show = |leaf: Option<&Leaf>| match leaf {
            None => "absent".to_owned(),
            Some(leaf) => {
                let [eax, ebx, ecx, edx] = leaf.answer;
                format!("{eax:08x} {ebx:08x} {ecx:08x} {edx:08x}")
            }
        };
        let missing = other.0.iter().filter(|leaf| self.leaf(leaf.function, leaf.index).is_none());
        let leaf = self.0.iter().chain(missing).find(|leaf| {
            self.leaf(leaf.function, leaf.index) != other.leaf(leaf.function, leaf.index)
        })?;
        let (function, index) = (leaf.function, leaf.index);
        let (here, there) = (self.leaf(function, index), other.leaf(function, index));
        Some(format!("leaf {function:#x}.{index}: {} and {}", show(here), show(there)))
    }
}
