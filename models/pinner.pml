/* Pinners: pin, unpin, charge. Part of handshake.pml. */


#ifdef WORDS
/* [publish], [fill] */
inline fill_slot(me_, r_) {
    atomic { ROOM(me_) ->
        if
        :: r_ == 1 -> store(me_, END(me_), 1)
        :: r_ == 2 -> store(me_, END(me_), 2)
        :: r_ == 3 -> store(me_, END(me_), 2)
        :: r_ == 4 -> store(me_, END(me_), 3)
        :: r_ == 7 -> store(me_, END(me_), 3)
        fi
    }
    atomic { ROOM(me_) ->
        if
        :: r_ & 1 -> store(me_, FIRST(me_), 0)
        :: r_ == 2 -> store(me_, FIRST(me_), 1)
        :: r_ == 4 -> store(me_, FIRST(me_), 2)
        fi
    }
    atomic { ROOM(me_) -> store(me_, OWNER(me_), TAKEN) }
}
#else
/* [publish], [fill] */
inline fill_slot(me_, r_) {
    atomic { ROOM(me_) -> store(me_, OWNER(me_), r_) }
}
#endif

/* Whether a look needs a fence before it to count. */
#define IS_FENCED(w) ((w) & FENCED) /* [is_fenced] */
#ifdef FENCED_TEST_OVERLAP_PIN
#define PIN_FENCED(w, r) (IS_FENCED(w) && (((w) & PAGES) == 0 || ((w) & (r))))
#else
#define PIN_FENCED(w, r) IS_FENCED(w)
#endif
#ifdef FENCED_TEST_OVERLAP_UNPIN
#define UNPIN_FENCED(w, r) (IS_FENCED(w) && (((w) & PAGES) == 0 || ((w) & (r))))
#else
#define UNPIN_FENCED(w, r) IS_FENCED(w)
#endif

/* Which pages are pinned. */
inline choose(r_) {
    if
    :: r_ = 1
#ifdef GAP
    :: r_ = 4
#else
    :: r_ = 2
#endif
#ifdef BRIDGE
    :: r_ = 3
#endif
    fi
}

/* [wake], [ring], behind the unlocking. */
inline wake_them(me_) {
    do
    :: atomic {
            wakes[me_] & BIT(0) -> wakes[me_] = wakes[me_] & ~BIT(0);
            bell[0] = RUNG;
            if
            :: wakes[me_] == 0 -> break
            :: else
            fi
        }
#if BREAKERS > 1
    :: atomic {
            wakes[me_] & BIT(1) -> wakes[me_] = wakes[me_] & ~BIT(1);
            bell[1] = RUNG;
            if
            :: wakes[me_] == 0 -> break
            :: else
            fi
        }
#endif
#ifdef CANCEL
    :: wakes[me_] == 0 -> break
#endif
    od
}

/* Who is shy, looks before it fills. That does less than who is not: so only liveness needs it. */
#ifdef FAIR
#define SHY shy
#ifdef BOLD
#define MAKE_SHY skip
#else
#define MAKE_SHY shy = 1
#endif
#define MAY_BE_BOLD(me_) shy = shy && (LOAD(me_, GATE) & PAGES) /* [is_shy] */
#else
#define SHY 0
#define MAKE_SHY skip
#define MAY_BE_BOLD(me_) skip
#endif

proctype pinner(byte me) {
    byte r;    /* the pages of the pin */
    byte w;    /* what a look said; not kept from step to step */
    byte b, n; /* of the scan */
#ifdef FAIR
    bit shy;   /* refused by a gate that is closed still: [make_shy] */
#endif
#ifdef WORDS
    byte owner, from, to;
#endif

idle:
    atomic { /* [try_pin] */
        if
        :: choose(r)
        :: goto enough
        fi;
        if
        :: !SHY /* [at_hand]: a slot is */
        :: goto elsewhere
        fi
    }
    goto fills;

elsewhere: /* [try_pin_elsewhere] */
    atomic {
        if
        :: LOAD(me, GATE) & r -> MAKE_SHY; r = 0; goto idle /* [refuses], [overlaps] */
        :: else -> MAY_BE_BOLD(me)
        fi
    }
fills:
    fill_slot(me, r);
#ifdef LOOK_FIRST
    atomic { grant(me, r); goto hold };
#endif
    /* [light]: nothing at run time. */
#ifdef MODE_FIRST
    atomic {
        if
        :: LOAD(me, GATE) & r -> goto retreat
        :: else -> grant(me, r); goto hold
        fi
    }
#endif
    atomic { /* [look], [look_again], [look_that_counts] */
        w = LOAD(me, GATE);
        if
        :: PIN_FENCED(w, r) -> w = 0
        :: !PIN_FENCED(w, r) && (w & PAGES) -> w = 0; goto may_stay
        :: else -> w = 0; grant(me, r); goto hold /* [is_open] */
        fi
    }
    atomic { /* [full], and the look behind it */
        drain_all(me);
        w = LOAD(me, GATE);
        if
        :: w & PAGES -> w = 0; goto may_stay
        :: !(w & PAGES) && !IS_FENCED(w) -> w = 0; grant(me, r); goto hold /* [is_open_to_fenced] */
        :: !(w & PAGES) && IS_FENCED(w) -> w = 0; grant(me, r) /* [count_fenced_pin] */
        fi
    }
counted:
#ifdef MODE_UNLOCKED
    atomic {
        if
        :: IS_FENCED(LOAD(me, GATE))
        :: goto hold
        fi
    }
    atomic { fenced = 0; trusted = 0; PUBLISH(0); goto hold };
#endif
    /* [charge], every so often, if nobody has the lock. Locked, published and unlocked in one step. */
    atomic {
        if
#ifdef UNLOCKED_BARRIER
        :: !locked && fenced && !ANY(ENTERING, PAGES) ->
#else
        :: !locked && fenced ->
#endif
            fenced = 0; /* [count_down] */
            trusted = 0;
            PUBLISH(WORD) /* [publish_gate] */
        :: true
        fi;
        goto hold
    }

may_stay:
    atomic {
        if
        :: LOAD(me, GATE) & r -> MAKE_SHY; goto retreat /* [refuses], [overlaps] */
        /* Whether the look that counted was a fenced one, is left open. */
        :: else -> grant(me, r); goto counted
        fi
    }
retreat: /* Back out the way a pin goes. */
#ifdef RETREAT_SILENT
    atomic { ROOM(me) -> store(me, OWNER(me), 0); r = 0; goto idle };
#endif

hold: /* The device works. Then [unpin]. */
#ifdef LOOK_BEFORE_CLEAR
    atomic {
        if
        :: LOAD(me, GATE) == 0
        :: else -> goto clear
        fi
    }
    atomic { ROOM(me) -> held[me] = 0; store(me, OWNER(me), 0); r = 0; goto idle };
clear:
#endif
    atomic { ROOM(me) -> held[me] = 0; store(me, OWNER(me), 0) } /* [clear] */
    /* [light]: nothing at run time. */
#ifdef WAITER_WORD
    atomic {
        if
        :: IS_FENCED(LOAD(me, GATE)) -> drain_all(me)
        :: else
        fi
    }
    atomic {
        if
        :: waiters & r -> goto last
        :: else -> r = 0; goto idle
        fi
    }
#endif
    atomic { /* [look], [unpin_watched], [look_that_counts] */
        w = LOAD(me, GATE);
        if
        :: UNPIN_FENCED(w, r) -> w = 0
        :: !UNPIN_FENCED(w, r) && (w & PAGES) -> w = 0; goto contended
        :: else -> w = 0; r = 0; goto idle /* [is_open], [is_open_to_fenced] */
        fi
    }
    atomic { /* [full], and the look behind it */
        drain_all(me);
        if
        :: LOAD(me, GATE) & PAGES
        :: else -> r = 0; goto idle /* [is_open_to_fenced] */
        fi
    }
contended: /* [unpin_contended] */
    atomic {
        if
        :: LOAD(me, GATE) & r /* [overlaps] */
        :: else -> r = 0; goto idle
        fi
    }
last:
    atomic {
        !locked -> locked = 1;
        drain_all(me);
released: /* [released] */
        do
        :: b == BREAKERS ->
            b = 0;
            r = 0;
            locked = 0;
            if
            :: wakes[me] -> goto waking
            :: else -> goto idle
            fi
        :: b < BREAKERS && !COUNTS_DOWN(b, r) -> b++
        :: else -> /* [draining] */
            remaining[b]--;
            if
            :: remaining[b] -> b++
            :: else ->
#ifdef NO_RESCAN
                conclude(me, b, n);
                b++
#else
                break
#endif
            fi
        od
    }
    scan(me, b, n); /* [drain] */
    atomic { conclude(me, b, n); b++; goto released };
waking:
    wake_them(me);
    goto idle;
enough:
}
