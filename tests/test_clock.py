from fairnb.book.clock import Clock
from fairnb.run.messages import SPEED, duration


def test_a_duration_is_told_in_its_own_size():
    assert [duration(seconds) for seconds in (0.4, 40, 89, 100, 5000, 9000)] == [
        "0 s", "40 s", "89 s", "2 min", "83 min", "2 h 30 min",
    ]  # fmt: skip


def test_the_time_left_follows_the_machine_and_the_training():
    told: list[str] = []
    clock = Clock({"00": 10.0, "01": 20.0, "02": 30.0}, 40.0, trained=False, say=told.append)
    assert (clock.seconds, clock.estimate) == (100, "about 2 min and the training")
    clock.done("00", 30.0)  # three times as long as where it was measured
    assert clock.seconds == 3 * (20 + 30 + 40)
    clock.write("epoch 1:  3%\n")
    assert told == []
    clock.write("…\n" + SPEED.format(left=24_000, speed=200.0, seconds=130.0))
    assert told == ["  24,000 images to train on, 200 a second: about 2 min of training, 7 min for all that is left"]
    clock.done("01", 75)  # the training was faster than it began
    assert (clock.seconds, clock.estimate) == (3 * 70, "about 4 min")


def test_a_chapter_that_is_up_to_date_takes_no_time():
    clock = Clock({"00": 10.0, "01": 20.0}, 5.0, trained=True, say=print)
    clock.skipped("00")
    assert (clock.seconds, clock.estimate) == (25, "about 25 s")
