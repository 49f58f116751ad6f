/* One membarrier for the breaks of two mappings, under TSO.
 *
 * A breaker that needs a barrier on every thread makes do with another breaker's, of whatever mapping, if that
 * one was begun behind its own closing. Barriers are executed one after the other, and counted as they begin.
 * The breaker closes its gate, fences, looks at the count, and queues up; if the count is another when its
 * turn comes, a barrier is over that was begun after the look.
 *
 * The mappings are asymmetric all the time: the change of the mode asks of the barrier only that it be begun
 * behind the gate's store, as the scan does (handshake.pml). README.md says more. The steps are joined as in
 * handshake.pml, and words in square brackets name functions of src/raw. */

/* ---- size --------------------------------------------------------------------------------------- */

/* Each pinner pins either mapping; breaker b breaks mapping b. */
#define PINNERS 2
#define BREAKERS 2
#define CPUS 4
#ifndef DEPTH
#define DEPTH 2
#endif
/* Breaks of each breaker; 0: again and again until it has enough. */
#ifndef BREAKS
#define BREAKS 0
#endif

/* Further: ONE_PINNER; MAY_FAIL, barriers that are not to be had; FAIR, for liveness. All other names in #ifdef are seeded bugs, see README.md. */

/* ---- memory ------------------------------------------------------------------------------------- */

/* A gate: 1 for closed. (All of a mapping's pages are one.) */
#define GATE(m) (m)
/* A pinner's slot: 1 + the mapping, 0 for free. */
#define SLOT(p) (2 + (p))
/* Barriers that have been begun. Only "another than before" is ever asked, so it may come round. */
#define BEGUN 4
#define NEXT(n) (((n) + 1) & 3)
#define ADDRESSES 5
#include "tso.pml"

/* The record of each mapping, under its lock. */
bit locked[2];
#define NONE 0
#define CLOSING 1
#define DRAINING 2
#define DRAINED 3
#define NEVER 4 /* there was no barrier */
byte state[2];
byte remaining[2];

/* Whose turn it is to begin a barrier; and whether the last was to be had. */
bit turn, had;

/* What only the checker knows: 1 + the mapping that each pinner uses now. */
byte held[PINNERS];
#define HELD(m) (held[0] == 1 + (m) || held[1] == 1 + (m))

#define OTHER(b) (1 - (b))

/* [drain], [conclude], behind the scan. Waking is handshake.pml's: here who waits sees it at once. */
inline conclude(m_, n_) {
    if
    :: n_ == 0 -> state[m_] = DRAINED; assert(!HELD(m_)) /* I2: drained above a pin */
    :: else -> state[m_] = DRAINING; remaining[m_] = n_
    fi;
    n_ = 0
}

inline look_at(me_, p_, m_, n_) {
    atomic {
        if
        :: LOAD(me_, SLOT(p_)) == 1 + m_ -> n_++
        :: else
        fi
    }
}

/* [count], [scan] */
inline scan(me_, m_, n_) {
    look_at(me_, 0, m_, n_);
    look_at(me_, 1, m_, n_)
}

/* ---- pinners ------------------------------------------------------------------------------------ */

proctype pinner(byte me) {
    byte m, n;

idle:
    atomic { /* [try_pin] */
        if
        :: LOAD(me, GATE(0)) == 0 -> m = 0
        :: LOAD(me, GATE(1)) == 0 -> m = 1
        :: goto enough
        fi
    }
    atomic { ROOM(me) -> store(me, SLOT(me), 1 + m) } /* [publish], [fill] */
    atomic { /* [light], [look] */
        if
        :: LOAD(me, GATE(m)) == 0 ->
            held[me] = 1 + m;
            assert(state[m] != DRAINED) /* I2: pinned under a proof */
        :: else /* [look_again]: backs out the way a pin goes */
        fi
    }
    atomic { ROOM(me) -> held[me] = 0; store(me, SLOT(me), 0) } /* [unpin], [clear] */
    atomic { /* [light], [look] */
        if
        :: LOAD(me, GATE(m)) == 0 -> m = 0; goto idle
        :: else
        fi
    }
    atomic { !locked[m] -> /* [unpin_contended] */
        locked[m] = 1;
        drain_all(me);
        if /* [released] */
        :: state[m] == DRAINING ->
            remaining[m]--;
            if
            :: remaining[m] == 0
            :: else -> goto unlock
            fi
        :: else -> goto unlock
        fi
    }
    scan(me, m, n);
    atomic { conclude(m, n); goto unlock };
unlock:
    atomic { locked[m] = 0; m = 0; goto idle };
enough:
}

/* ---- breakers ----------------------------------------------------------------------------------- */

proctype breaker(byte b; byte me) {
    byte n;
#if BREAKS
    byte breaks;
#endif
    byte before; /* barriers that had been begun behind our closing */
    byte passed; /* CPUs that our barrier has reached */
#ifdef SHARE_STARTED_BEFORE
    bit waited;
#endif

idle:
    atomic { /* [close_ranges], [enter], [close_gate], [publish_gate] */
#if BREAKS
        if
        :: breaks < BREAKS && !locked[b] -> breaks++
        :: breaks == BREAKS -> goto enough
        fi;
#else
        if
        :: !locked[b]
        :: goto enough
        fi;
#endif
        locked[b] = 1;
        state[b] = CLOSING;
        store(me, GATE(b), 1)
    }
    atomic { /* [everywhere]: a fence, then the look at the count */
#ifndef SHARE_UNFENCED
        drain_all(me);
#endif
        before = LOAD(me, BEGUN)
    }
#ifdef SHARE_STARTED_BEFORE
    waited = turn;
#endif
    atomic { !turn ->
        turn = 1;
        drain_all(me);
        if
#ifdef SHARE_STARTED_BEFORE
        :: (LOAD(me, BEGUN) != before || waited) && had -> waited = 0; turn = 0; goto looks
        :: else -> waited = 0
#elif defined(SHARE_FAILED)
        :: LOAD(me, BEGUN) != before -> turn = 0; goto looks
        :: else
#else
        :: LOAD(me, BEGUN) != before && had -> turn = 0; goto looks
        :: else
#endif
        fi;
#ifndef SHARE_COUNTED_LATE
        before = LOAD(me, BEGUN);
        store(me, BEGUN, NEXT(before))
#endif
    }
    do /* On each CPU, in any order, the other breaker's too. */
    :: atomic { !(passed & 1) -> drain_all(me); drain_all(0); passed = passed | 1 }
    :: atomic { !(passed & 2) -> drain_all(me); drain_all(1); passed = passed | 2 }
    :: atomic { !(passed & 4) -> drain_all(me); drain_all(PINNERS + OTHER(b)); passed = passed | 4 }
    :: atomic { passed == 7 -> passed = 0; break }
#ifdef MAY_FAIL
    :: atomic { true -> /* it was not to be had */
            passed = 0;
            drain_all(me);
            had = 0;
            turn = 0;
            state[b] = NEVER;
            locked[b] = 0;
            goto leaves
        }
#endif
    od;
    atomic {
#ifdef SHARE_COUNTED_LATE
        before = LOAD(me, BEGUN);
        store(me, BEGUN, NEXT(before));
#endif
        drain_all(me);
        had = 1;
        turn = 0
    };

looks:
    scan(me, b, n); /* [look], [settle], [drain] */
    atomic { conclude(b, n); before = 0; drain_all(me); locked[b] = 0 }
    state[b] == DRAINED; /* [poll_break] */
leaves:
    atomic { !locked[b] -> /* [reopen] */
        assert(state[b] != DRAINED || !HELD(b)); /* I2: freed under a pin */
        drain_all(me);
        before = 0;
        state[b] = NONE;
        remaining[b] = 0;
        mem[GATE(b)] = 0;
        goto idle
    };
enough:
}

init {
    atomic {
        run pinner(0);
#ifndef ONE_PINNER
        run pinner(1);
#endif
        run breaker(0, PINNERS);
        run breaker(1, PINNERS + 1);
        run_cpus()
    }
}

#ifdef FAIR
/* I5: a break that has closed gets its proof, and so reopens. */
ltl drains { [] (state[0] == CLOSING -> <> (state[0] == NONE)) }
#endif
