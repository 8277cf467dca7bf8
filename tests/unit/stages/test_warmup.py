import math

from semievol.stages.warmup import loss, much_worse


def test_a_member_far_above_the_others_is_much_worse_and_one_without_a_loss_is_not() -> None:
    assert much_worse([0.5, 1.1, 0.5, 0.4]) == [1]
    assert much_worse([0.5, 0.9, 0.5, 0.4]) == []
    assert much_worse([0.4, 0.9]) == [1]
    unmeasured = [loss({"steps": 3}), loss({"held_out_loss": None})]
    assert unmeasured == [math.inf, math.inf] and much_worse(unmeasured) == []
    assert much_worse([0.5, loss({"held_out_loss": math.nan}), 0.4]) == [1]
