"""The interpreter of PTX runs small programs that are right, and refuses those that are not."""

import numpy as np
import pytest
from ptx_interpreter import GlobalMemory, Kernel, PTXError

THREADS = 32
# Threads have their index in %r1, their own word of the buffer at %rd3 and of shared memory at %rd5.
KERNEL = """
.version 8.0
.target sm_90
.address_size 64
.shared .align 4 .b8 words[128];
.visible .entry kernel(.param .u64 buffer)
{
.reg .pred %p<9>;
.reg .b32 %r<9>;
.reg .b64 %rd<9>;
.reg .f32 %f<9>;
ld.param.u64 %rd1, [buffer];
mov.u32 %r1, %tid.x;
mul.wide.u32 %rd2, %r1, 4;
add.s64 %rd3, %rd1, %rd2;
mov.u64 %rd4, words;
add.s64 %rd5, %rd4, %rd2;
mov.u32 %r3, 0;
setp.lt.u32 %p1, %r1, 16;
setp.eq.s32 %p2, %r1, 0;
BODY
ret;
}
"""
SHUFFLE = "shfl.sync.bfly.b32 %r2|%p3, %r1, 1, 31, -1;"
SHUFFLE_OF_HALF = "shfl.sync.bfly.b32 %r2|%p3, %r1, 16, 31, 0xFFFF0000;"
LOCAL = ".local .align 16 .b8 own[32]; mov.u64 %rd6, own;"
THREAD = np.arange(THREADS, dtype=np.uint32)


def run(body, blocks=1):
    """What the program leaves in a buffer of a word for each thread."""
    buffer = np.zeros(THREADS, np.uint32)
    memory = GlobalMemory([buffer])
    kernel = Kernel(KERNEL.replace("BODY", body.replace("; ", ";\n")))
    kernel.run(blocks, THREADS, 0, [np.uint64(memory.address(buffer))], memory)
    memory.copy_back()
    return buffer


RIGHT = {
    "own words": ("st.global.u32 [%rd3], %r1;", THREAD),
    "shared memory": (
        "st.shared.u32 [%rd5], %r1; bar.sync 0; ld.shared.u32 %r2, [words+4]; st.global.u32 [%rd3], %r2;",
        np.ones(THREADS),
    ),
    "a shuffle": (f"{SHUFFLE} st.global.u32 [%rd3], %r2;", THREAD ^ 1),
    "a shuffle where branches join": (
        f"@%p1 bra A; add.s32 %r3, %r3, 5; A: {SHUFFLE} add.s32 %r3, %r3, %r2; st.global.u32 [%rd3], %r3;",
        (THREAD ^ 1) + 5 * (THREAD >= 16),
    ),
    "a shuffle between two accesses": (
        f"st.shared.u32 [%rd5], %r1; {SHUFFLE} ld.shared.u32 %r2, [words+4]; st.global.u32 [%rd3], %r2;",
        np.ones(THREADS),
    ),
    "a loop": (
        "mov.u32 %r4, %r1; A: setp.eq.s32 %p4, %r4, 0; @%p4 bra B; add.s32 %r3, %r3, %r4;"
        " add.s32 %r4, %r4, -1; bra A; B: st.global.u32 [%rd3], %r3;",
        THREAD * (THREAD + 1) // 2,
    ),
    "rare code behind the end": (
        f"@%p1 bra A; B: {SHUFFLE} add.s32 %r3, %r3, %r2; st.global.u32 [%rd3], %r3; ret;"
        " A: add.s32 %r3, %r3, 7; bra B;",
        (THREAD ^ 1) + 7 * (THREAD < 16),
    ),
    "local memory": (
        f"{LOCAL} st.local.v4.u32 [%rd6], {{%r1, %r3, %r1, %r3}}; ld.local.v2.u32 {{%r4, %r5}}, [%rd6+8];"
        " st.global.u32 [%rd3], %r4;",
        THREAD,
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_programs(name):
    body, expected = RIGHT[name]
    np.testing.assert_array_equal(run(body), expected)


WRONG = [
    ("st.global.u32 [%rd3+128], %r1;", "outside every buffer of global memory"),
    ("st.global.u32 [%rd3+-4], %r1;", "outside every buffer of global memory"),
    ("st.shared.u32 [%rd5+128], %r1;", "outside every buffer of shared memory"),
    (f"{LOCAL} st.local.u32 [%rd6+32], %r1;", "outside every buffer of local memory"),
    ("st.global.u32 [%rd3+2], %r1;", "misaligned"),
    (f"{LOCAL} st.local.v4.u32 [%rd6+24], {{%r1, %r1, %r1, %r1}};", "misaligned"),
    ("ld.shared.u32 %r2, [%rd5];", "nobody wrote there"),
    (f"{LOCAL} ld.local.u32 %r2, [%rd6];", "nobody wrote there"),
    ("st.global.u32 [%rd1], %r1;", "race in global memory"),
    ("st.shared.u32 [words], %r1;", "race in shared memory"),
    ("st.shared.u32 [%rd5], %r1; ld.shared.u32 %r2, [words+4];", "race in shared memory"),
    ("@%p2 st.shared.u32 [words], %r1; ld.shared.u32 %r2, [words];", "race in shared memory"),
    ("@%p1 bra A; bar.sync 0; A: ret;", "a part of a warp comes to this barrier alone"),
    ("@%p1 bra A; bar.sync 0; bra B; A: bar.sync 0; B: ret;", "a part of a warp comes to this barrier alone"),
    ("@%p1 bar.sync 0;", "skip a barrier or a shuffle by its guard"),
    (f"@%p1 ret; {SHUFFLE}", "the mask of a shuffle names a thread that is not there"),
    (f"{SHUFFLE_OF_HALF}", "the mask of a shuffle leaves out a thread that runs it"),
    (f"@%p1 bra A; {SHUFFLE_OF_HALF} A: ret;", "a shuffle reads from a thread that takes no part"),
    (f"@%p1 bra A; {SHUFFLE} bra B; A: {SHUFFLE} B: ret;", "wait for threads that never come"),
    (f"@%p1 bra A; {SHUFFLE} bra B; A: bar.sync 0; B: ret;", "a part of a warp comes to this barrier alone"),
    ("div.s32 %r2, %r1, %r3;", "division by zero"),
    ("tex.1d.v4.f32.s32 %f1, %r1;", "the opcode is not known"),
    ("mul24.lo.s32 %r2, %r1, %r1;", "the opcode is not known"),
    ("sqrt.approx.f32 %f1, %f1;", "this sqrt is not supported"),
    ("mov.u64 %rd6, %r1;", "cannot be read as uint64"),
]


@pytest.mark.parametrize(("body", "said"), WRONG)
def test_wrong_programs(body, said):
    with pytest.raises(PTXError, match=said):
        run(body)


def test_blocks_that_write_to_one_place():
    own = "mov.u32 %r4, %ctaid.x; mul.wide.u32 %rd6, %r4, 4; add.s64 %rd6, %rd1, %rd6;"
    np.testing.assert_array_equal(
        run(f"{own} @%p2 st.global.u32 [%rd6], %r4;", blocks=3), [0, 1, 2, *[0] * 29]
    )
    with pytest.raises(PTXError, match="between blocks: 0 writes in line"):
        run("@%p2 st.global.u32 [%rd3], %r1;", blocks=2)


def test_a_thread_that_leaves_out_a_barrier():
    """Whole warps do; parts of warps are refused before."""
    text = KERNEL.replace("BODY", "setp.lt.u32 %p4, %r1, 32;\n@%p4 bra A;\nbar.sync 0;\nA: ret;")
    buffer = np.zeros(1, np.uint32)
    memory = GlobalMemory([buffer])
    with pytest.raises(PTXError, match=r"not all threads reach the barrier in lines .*: 32 have ended"):
        Kernel(text).run(1, 64, 0, [np.uint64(memory.address(buffer))], memory)


@pytest.mark.parametrize(
    ("opcode", "exact"), [("add.rz.f32", 1.0), ("add.f32", 1.0 + 2**-23), ("fma.rm.f32", 1.0)]
)
def test_rounding(opcode, exact):
    """1 + 0.75 units of its last digit, to the nearest number and downwards."""
    small = np.float32(0.75 * 2**-23).view(np.uint32)
    one = "0f3F800000"
    factors = f"{one}, 0f{small:08X}, {one}" if opcode.startswith("fma") else f"{one}, 0f{small:08X}"
    found = run(f"{opcode} %f1, {factors}; st.global.f32 [%rd3], %f1;")
    np.testing.assert_array_equal(found.view(np.float32), np.float32(exact))


def test_fused_products_round_once():
    """In float64 too: (1 + 2^-30)^2 - 1 - 2^-29 is 2^-60, and 0 where the product is rounded by itself."""
    factor = np.float64(1 + 2**-30)
    text = KERNEL.replace(".reg .f32 %f<9>;", ".reg .f64 %fd<9>;").replace(
        "BODY",
        f"mov.f64 %fd1, 0d{factor.view(np.uint64):016X};\n"
        f"mov.f64 %fd2, 0d{np.float64(-1 - 2**-29).view(np.uint64):016X};\n"
        "fma.rn.f64 %fd3, %fd1, %fd1, %fd2;\n@%p2 st.global.f64 [%rd1], %fd3;",
    )
    buffer = np.zeros(1)
    memory = GlobalMemory([buffer])
    Kernel(text).run(1, THREADS, 0, [np.uint64(memory.address(buffer))], memory)
    memory.copy_back()
    assert factor * factor - 1 - 2**-29 == 0.0
    assert buffer[0] == 2**-60


def test_dynamic_shared_memory_begins_where_the_other_ends():
    """There a load of 8 bytes is misaligned, though the variable before begins at a multiple of 8."""
    text = KERNEL.replace("words[128];", "words[132];\n.extern .shared .align 4 .b8 more[];")
    program = (
        "mov.u64 %rd6, more; @%p2 st.shared.v2.u32 [%rd6+{}], {{%r1, %r1}}; @%p2 st.shared.u32 [words], %r1;"
    )
    buffer = np.zeros(1, np.uint32)
    memory = GlobalMemory([buffer])

    def run_at(offset, dynamic_bytes):
        kernel = Kernel(text.replace("BODY", program.format(offset)))
        assert kernel.static_shared_bytes == 132
        kernel.run(1, THREADS, dynamic_bytes, [np.uint64(memory.address(buffer))], memory)

    run_at(4, 12)
    with pytest.raises(PTXError, match="misaligned"):
        run_at(0, 12)
    with pytest.raises(PTXError, match="outside every buffer of shared memory"):
        run_at(4, 8)


def test_arrays_that_overlap_share_their_bytes():
    whole = np.zeros((2, THREADS), np.uint32)
    second = whole[1]
    memory = GlobalMemory([whole, second])
    assert memory.address(second) == memory.address(whole) + second.nbytes
    body = "st.global.u32 [%rd3], %r1;"
    Kernel(KERNEL.replace("BODY", body)).run(1, THREADS, 0, [np.uint64(memory.address(second))], memory)
    memory.copy_back()
    np.testing.assert_array_equal(whole, [np.zeros(THREADS), THREAD])
    alone = GlobalMemory([whole[:, ::2]])
    with pytest.raises(PTXError, match="outside every buffer"):
        Kernel(KERNEL.replace("BODY", body)).run(1, 2, 0, [np.uint64(alone.address(whole[:, ::2]))], alone)
