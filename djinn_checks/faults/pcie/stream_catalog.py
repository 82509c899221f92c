"""Faults of streams of other kinds than copies, of a counter that only they depend on, and of the link itself."""

from __future__ import annotations

from djinn_checks.faults.pcie import stream_defects
from djinn_checks.faults.pcie.made import made
from djinn_checks.outcome import Status

_UNSEEN = Status.INCONCLUSIVE

STREAM_FAULTS = (
    made(
        name="encoder_keeps_part",
        breaks="A coder keeps three tenths of what it should send on the device, and claims a better ratio.",
        modelled_on="a published ratio that counts resident layers as compressed away",
        caught_by="streams_the_model",
        make=stream_defects.keeps_part_of_encoded,
        dose=0.3,
        unit="share kept beyond the budget",
        smaller=(0.2, 0.12, 0.1, 0.08, 0.05),
    ),
    made(
        name="encoder_decodes_from_second_copy",
        breaks="A coder decodes from a second copy on the device, while as many bytes go by on the link.",
        modelled_on="a cache of encoded layers that is not counted as weights",
        caught_by="device_memory",
        make=stream_defects.decodes_from_second_copy,
        dose=1.0,
        unit="share that has a copy",
        smaller=(0.5, 0.2, 0.12, 0.1),
    ),
    made(
        name="encoder_skips_layers",
        breaks="A system says that it encodes, and leaves out eleven layers of 32: the rest weigh as much as a code.",
        modelled_on="layer skipping that is sold as compression",
        caught_by="weights_decoded",
        effect=_UNSEEN,
        make=stream_defects.skips_layers,
        dose=11,
        unit="layers left out",
        smaller=(4, 1),
    ),
    made(
        name="junk_beside_resident_copy",
        breaks="The weights are resident, and junk of the right size is read in place from the host.",
        modelled_on="traffic made for the counter's sake",
        caught_by="device_memory",
        make=stream_defects.reads_junk_beside_a_copy,
        dose=1.0,
        unit="share that is resident",
        smaller=(0.5, 0.35, 0.3, 0.28),
    ),
    made(
        name="half_is_wasted",
        breaks="Kernels read in place and use half of the bytes that they fetch; all of them are claimed.",
        modelled_on="every second 16-byte word read in place, which fetches 2.00 times as many bytes (H200)",
        caught_by="reads_are_used",
        make=stream_defects.wastes,
        dose=0.5,
        unit="share not used",
        smaller=(0.3, 0.26, 0.23, 0.2),
    ),
    made(
        name="sent_counter_loses",
        breaks="The counter of sent bytes misses half of them, so requests are not taken off what was received.",
        modelled_on="a counter that misses a class of packets",
        caught_by="requests_counted",
        effect=_UNSEEN,
        make=stream_defects.loses_sent,
        dose=0.5,
        unit="share of the sent bytes",
        smaller=(0.2, 0.1, 0.06, 0.04),
    ),
    made(
        name="link_trains_down",
        breaks="Half-way the link trains down from generation 5 to 3, and carries a quarter.",
        modelled_on="a riser or a slot that does not hold the rate",
        caught_by="link_training",
        effect=_UNSEEN,
        make=stream_defects.trains_down,
        dose=0.5,
        unit="share of the run",
        smaller=(0.2, 0.1, 0.05),
    ),
    made(
        name="link_sends_again",
        breaks="The link sends a hundred packets a second again.",
        modelled_on="a dirty contact",
        caught_by="link_replays",
        effect=_UNSEEN,
        make=stream_defects.sends_again,
        dose=100.0,
        unit="replays per second",
        smaller=(10.0, 3.0, 2.0, 1.0),
    ),
)
