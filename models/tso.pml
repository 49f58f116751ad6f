/* Store buffers under TSO: what handshake.pml and sharing.pml stand on.
 *
 * Who includes this says how many CPUS and ADDRESSES there are, and how deep the buffers (DEPTH). Each
 * process is on a CPU of its own. It loads with LOAD, stores with `store` where there is ROOM, and fences
 * with `drain_all`. With FAIR every CPU's buffer empties itself in a process of its own, so that weak
 * fairness is for each of them. */

byte mem[ADDRESSES];


/* An entry of a buffer: 0 for none, else 1 + 16 * address + value. */
byte buffer[CPUS * DEPTH];

#define AT(c, i) buffer[(c) * DEPTH + (i)]
#define ENTRY(a, v) (1 + 16 * (a) + (v))
#define ADDRESS(e) (((e) - 1) >> 4)
#define VALUE(e) (((e) - 1) & 15)
#define HAS(c, i, a) (AT(c, i) && ADDRESS(AT(c, i)) == (a))

/* A load sees the newest store of its own CPU. */
#define LOAD_1(c, a) (HAS(c, 0, a) -> VALUE(AT(c, 0)) : mem[a])
#define LOAD_2(c, a) (HAS(c, 1, a) -> VALUE(AT(c, 1)) : LOAD_1(c, a))
#define LOAD_3(c, a) (HAS(c, 2, a) -> VALUE(AT(c, 2)) : LOAD_2(c, a))
#define LOAD_4(c, a) (HAS(c, 3, a) -> VALUE(AT(c, 3)) : LOAD_3(c, a))
#if DEPTH == 1
#define LOAD(c, a) LOAD_1(c, a)
#elif DEPTH == 2
#define LOAD(c, a) LOAD_2(c, a)
#elif DEPTH == 3
#define LOAD(c, a) LOAD_3(c, a)
#else
#define LOAD(c, a) LOAD_4(c, a)
#endif

#define ROOM(c) (AT(c, DEPTH - 1) == 0)

/* Only where there is room. */
inline store(c_, a_, v_) {
    if
    :: AT(c_, 0) == 0 -> AT(c_, 0) = ENTRY(a_, v_)
#if DEPTH > 1
    :: AT(c_, 0) != 0 && AT(c_, 1) == 0 -> AT(c_, 1) = ENTRY(a_, v_)
#endif
#if DEPTH > 2
    :: AT(c_, 1) != 0 && AT(c_, 2) == 0 -> AT(c_, 2) = ENTRY(a_, v_)
#endif
#if DEPTH > 3
    :: AT(c_, 2) != 0 && AT(c_, 3) == 0 -> AT(c_, 3) = ENTRY(a_, v_)
#endif
    fi
}

/* The oldest store becomes visible. */
inline drain_one(c_) {
    mem[ADDRESS(AT(c_, 0))] = VALUE(AT(c_, 0));
#if DEPTH > 1
    AT(c_, 0) = AT(c_, 1);
#endif
#if DEPTH > 2
    AT(c_, 1) = AT(c_, 2);
#endif
#if DEPTH > 3
    AT(c_, 2) = AT(c_, 3);
#endif
    AT(c_, DEPTH - 1) = 0
}

/* A fence, a locked instruction, or an interrupt: all stores of the CPU become visible. */
inline drain_all(c_) {
    do
    :: AT(c_, 0) != 0 -> drain_one(c_)
    :: else -> break
    od
}

/* The oldest store of a CPU becomes visible, at any time. */
#ifdef FAIR
proctype cpu(byte c) {
end:
    do
    :: d_step { AT(c, 0) != 0 -> drain_one(c) }
    od
}
#else
proctype cpus() {
end:
    do
    :: d_step { AT(0, 0) != 0 -> drain_one(0) }
    :: d_step { AT(1, 0) != 0 -> drain_one(1) }
#if CPUS > 2
    :: d_step { AT(2, 0) != 0 -> drain_one(2) }
#endif
#if CPUS > 3
    :: d_step { AT(3, 0) != 0 -> drain_one(3) }
#endif
    od
}
#endif

inline run_cpus() {
#ifdef FAIR
    run cpu(0);
    run cpu(1);
#if CPUS > 2
    run cpu(2);
#endif
#if CPUS > 3
    run cpu(3);
#endif
#else
    run cpus()
#endif
}
