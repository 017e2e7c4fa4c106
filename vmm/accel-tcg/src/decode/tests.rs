use super::*;
use proptest::prelude::*;

#[test]
fn immediates_have_the_sign_of_their_top_bit() {
    assert_eq!(decode(0xfff0_0513).imm, -1); // li a0, -1
    assert_eq!(decode(0xfe05_2fa3).imm, -1); // sw zero, -1(a0)
    assert_eq!(decode(0xfe00_0ee3).imm, -4); // beq zero, zero, -4
    assert_eq!(decode(0xffdf_f06f).imm, -4); // j -4
    assert_eq!(decode(0x8000_0537).imm, i32::MIN); // lui a0, 0x80000
    assert_eq!(decode(0x43f5_5513).imm, 63); // srai a0, a0, 63
}

#[test]
fn what_goes_to_the_zero_register_goes_into_the_sink() {
    assert_eq!(decode(0x0000_0013).rd, SINK); // nop
    // f0 is a register as any other: fadd.s ft0, ft0, ft0
    assert_eq!(decode(0x0000_0053).rd, 0);
    // fclass.s zero, ft0 has an integer destination.
    assert_eq!(decode(0xe000_1053).rd, SINK);
}

#[test]
fn compressed_instructions_stand_for_others() {
    for (parcel, word) in [
        (0x4501, 0x0000_0513), // c.li a0, 0
        (0x8082, 0x0000_8067), // c.jr ra
        (0x9002, 0x0010_0073), // c.ebreak
        (0x6108, 0x0005_3503), // c.ld a0, 0(a0)
        (0x7179, 0xfd01_0113), // c.addi16sp -48
        (0xbfc5, 0xff1f_f06f), // c.j -16
        (0xd97d, 0xfe05_0be3), // c.beqz a0, -10
        (0xe806, 0x0011_3823), // c.sdsp ra, 16(sp)
    ] {
        assert_eq!(compressed::expand(parcel), Some(word), "{parcel:#06x}");
        assert_eq!(decode_compressed(parcel).length, 2);
    }
    assert_eq!(decode_compressed(0).code, Code::Illegal);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn every_word_decodes_to_registers_that_exist(word in any::<u32>()) {
        let op = decode(word);
        prop_assert!(op.rd <= SINK && op.rs1 < 32 && op.rs2 < 32, "{op:?}");
        prop_assert!(op.code != Code::Next);
    }

    #[test]
    fn every_half_decodes_to_what_its_word_decodes_to(parcel in any::<u16>()) {
        let op = decode_compressed(parcel);
        prop_assert_eq!(op.length, 2);
        if let Some(word) = compressed::expand(parcel) {
            prop_assert_eq!(Op { length: 4, ..op }, decode(word));
            // What it stands for is always an instruction.
            prop_assert!(op.code != Code::Illegal, "{:#06x}", parcel);
        }
    }
}

#[test]
fn pause_is_told_from_fences() {
    assert_eq!(decode(0x0100_000f).code, Code::Pause);
    for fence in [0x0ff0_000f, 0x0330_000f, 0x0110_000f, 0x0100_008f] {
        assert_eq!(decode(fence).code, Code::Fence, "{fence:#x}");
    }
}
