"""Where things lie in the page of a rank (see `page`). All are words of 8 bytes.

    word 0..31          the present: see `Word`
    32..95              hash of the collective with sequence n at 32 + n % 64
    96..607             a record for each of the last 64 steps, 8 words each:
                        step, compute, data and wait in ns, gradient norm and loss as doubles, check, spare
    608..863            a hash of the state for each of the last 64 steps, 4 words each:
                        step, slice, hash, check

The check of a record is the exclusive or of its other words and `MAGIC`: a record that is half of one step
and half of another does not pass, on whatever processor, and neither does an empty one.
"""

from enum import IntEnum

MAGIC = 0x32_47_50_53_4D_48_54_49
RING = 64
HASHES = 32
RECORDS, RECORD_WORDS = 96, 8
STATES, STATE_WORDS = RECORDS + RING * RECORD_WORDS, 4
WORDS = STATES + RING * STATE_WORDS
SIZE = 8 * WORDS
MASK = (1 << 63) - 1


class Phase(IntEnum):
    """What the rank's main thread is at. The first row is bounded by a step; the rest may take long and
    are never a hang by themselves."""

    LOAD, FORWARD, BACKWARD, EXCHANGE, UPDATE, BOUNDARY = range(6)
    START, CHECKPOINT, EVALUATE, IDLE, REGROUP, DONE = range(6, 12)


UNBOUNDED = frozenset({Phase.START, Phase.CHECKPOINT, Phase.EVALUATE, Phase.IDLE, Phase.REGROUP, Phase.DONE})


class Word(IntEnum):
    MAGIC, PID, GENERATION, STEP = range(4)
    """STEP: optimizer steps done."""
    PHASE, PHASE_NS, STEP_NS = range(4, 7)
    """Since when it is in this phase, and in this step."""
    ISSUED, WAITING, FINISHED, WAIT_SINCE_NS = range(7, 11)
    """Collectives of this generation started; the one it blocks in, or 0; how many are done."""
    MEMORY, LEFT, NONFINITE_STEP = range(11, 14)
    """Bytes of the device that its tensors take; 1 once it leaves in order; the step in which its own
    gradient was not finite: the first one of an unbroken run of such steps."""
    HASH_STEP = 14
    """The last step after which a slice of the replicated state was hashed: see its record."""
    BEAT_NS = 17
    """When anything was written last."""
    PULSE_NS = 18
    """When a thread beside the main one ran last; 0: there is none that tells."""
    MEMORY_LIMIT = 19
    """Bytes of the device that its tensors could take; 0: not known."""
