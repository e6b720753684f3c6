"""GridWorldPlayer: steps against the environment's own, values against planning; buttons, keys and play in Python."""

from __future__ import annotations

import copy
import re

import gymnasium
import pytest
import torch

from rlkit import lab
from rlkit.errors import ConfigError
from rlkit.lab.pacman_svg import SIZE, draw
from rlkit.widgets import GridWorldPlayer
from rlkit.widgets.models.grid_world import GridWorldModel


def test_the_optimum_plays_its_return():
    model = GridWorldModel(lab.PacmanGrid("guide"))
    while not model.over:
        model.act()
    assert model.outcome == "won" and model.total == pytest.approx(model.best) == pytest.approx(2.91)
    assert model.best == lab.optimal_return(model.env.model) == pytest.approx(model.expected)


def test_steps_are_the_environments():
    env = lab.PacmanGrid("guide", slip=0.3)
    model = GridWorldModel(env, seed=5)
    twin = copy.deepcopy(env)
    twin.reset(seed=5)
    total = 0.0
    for action in (3, 2, 2, 1, 0, 3, 3):
        if model.over:
            break
        state, reward, *_ = twin.step(action)
        move = model.go(action)
        total += reward
        assert (move.next_state, move.reward, model.state) == (state, reward, state)
    assert model.total == pytest.approx(total) and env._steps == 0  # the given one is not touched
    assert model.picture() == twin.svg()


def test_slips_are_told():
    model = GridWorldModel(lab.PacmanGrid(("   ", " P ", "  ."), slip=1.0))
    assert model.go("up").slipped
    assert not GridWorldModel(lab.PacmanGrid(("   ", " P ", "  ."))).go("up").slipped


@pytest.mark.parametrize(
    "names", [("w", "a", "d", "s"), ("up", "LEFT", "Right", "down"), ("↑", "←", "→", "↓"), (0, 1, 2, 3)]
)
def test_actions_by_every_name(names):
    model = GridWorldModel(lab.PacmanGrid(("   ", " P ", "  .")))
    assert [model.go(name).action for name in names] == [0, 1, 2, 3]


@pytest.mark.parametrize("bad", ["x", "", 4, -1])
def test_an_action_that_is_none(bad):
    with pytest.raises(ConfigError, match="action"):
        GridWorldModel().go(bad)


def test_cut_off_and_over():
    model = GridWorldModel(lab.PacmanGrid("guide", max_steps=3))
    for _ in range(3):
        model.go("w")
    assert model.outcome == "cut off" and model.over
    with pytest.raises(ConfigError, match="over"):
        model.go("w")
    with pytest.raises(ConfigError, match="over"):
        model.act()
    model.reset()
    assert not model.over and model.moves == [] and model.total == 0


def test_policies():
    env = lab.PacmanGrid("first")
    table = lab.TabularPolicy.of(env)
    model = GridWorldModel(env, table)
    uniform = GridWorldModel(env, "uniform")
    assert torch.equal(model.policy, uniform.policy) and model.expected == pytest.approx(uniform.expected)
    assert model.expected == pytest.approx(lab.expected_return(env.model, table.probabilities()))
    assert torch.equal(model.values, lab.policy_evaluation(env.model, table.probabilities()))
    assert model.picture("policy") == env.svg(model.values, table.probabilities())
    plan = lab.value_iteration(env.model)
    assert model.picture("optimal") == env.svg(plan.values, plan.policy)
    assert [q for _, _, q in model.here()] == plan.action_values[0].tolist()
    for bad in ("best", torch.ones(2, 4) / 4, torch.ones(len(env.states), 4)):
        with pytest.raises(ConfigError):
            GridWorldModel(env, bad)
    with pytest.raises(ConfigError, match="PacmanGrid"):
        GridWorldModel(gymnasium.make("CartPole-v1"))
    assert GridWorldModel(gymnasium.make("rlkit/PacmanGrid-v0")).env.rows == lab.PacmanGrid().rows


def test_the_policys_luck_is_the_seeds():
    def episode(seed):
        model = GridWorldModel(lab.PacmanGrid(slip=0.2), "uniform", seed=seed)
        while not model.over:
            model.act()
        return [(move.action, move.next_state) for move in model.moves]

    assert episode(1) == episode(1) != episode(2)


# --- the view ---------------------------------------------------------------------------------------------------


def test_buttons_and_keys():
    player = GridWorldPlayer()
    player.down.click()
    assert [move.action for move in player.model.moves] == [3]
    player.typed.value = "s"
    player.typed.value = "sd"
    assert [move.action for move in player.model.moves] == [3, 3, 2]
    player.typed.value = "s"  # deleting a letter undoes nothing
    assert len(player.model.moves) == 3
    player.typed.value = "sWA"  # two at once, and in capitals
    assert [move.action for move in player.model.moves][3:] == [0, 1]
    player.typed.value = "zwwwww"  # another text in its place is no typing
    assert len(player.model.moves) == 5
    player.typed.value = "sWA"
    player.typed.value = "sWAx"
    assert "unknown action" in player._trouble.value and len(player.model.moves) == 5
    player.up.click()
    assert player._trouble.value == "" and "row" in player._picture.value
    assert f"step <b>{len(player.model.moves)} of 50</b>" in player._numbers.value
    player.again.click()
    assert player.model.moves == [] and player.typed.value == ""
    player.typed.value = "s"
    assert len(player.model.moves) == 1


def test_watching():
    player = GridWorldPlayer()
    player.step.click()
    assert player.model.moves[0].by == "policy"
    player.play.playing = True
    for tick in range(1, 20):
        player.play.value = tick
    assert player.model.outcome == "won" and not player.play.playing and player._trouble.value == ""
    assert "Won:" in player._numbers.value and player.up.disabled and player.step.disabled
    assert f"{player.model.total:.3g}" in player._numbers.value
    player.play.playing = True
    player.play.value = 30
    assert not player.play.playing and "over" not in player._trouble.value
    player.play.value = 0  # the stop button
    assert player.model.over
    player.go_on.value = True
    player.play.value = 1
    assert len(player.model.moves) == 1 and not player.up.disabled
    player.speed.value = 200
    assert player.play.interval == 200


def test_overlay_and_policy_menus():
    env = lab.PacmanGrid("first")
    policy = lab.TabularPolicy.of(env)
    player = GridWorldPlayer(env, policy)
    assert player.policy.value == "given" and "Values from" not in player._picture.value
    player.overlay.value = "policy"
    assert (
        "Values from" in player._picture.value and "return that the policy expects" in player._numbers.value
    )
    given = player._picture.value
    player.policy.value = "optimal"
    assert player._picture.value != given and player.model.policy_name == "optimal"
    player.policy.value = "given"
    assert player._picture.value == given


def test_lost_is_said_in_words():
    player = GridWorldPlayer(lab.PacmanGrid(("EP.",)))
    player.left.click()
    assert "Lost:" in player.static_html() and "lost" in player.describe()
    bundle = player._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    assert "<svg" in data["text/html"] and "lost" in data["text/plain"]


@pytest.mark.parametrize(("action", "half"), [(0, "lower"), (1, "upper"), (2, "upper"), (3, "upper")])
def test_a_cells_value_stands_where_no_arrow_runs(action, half):
    shares = [0.0] * 4
    shares[action] = 1.0
    drawn = draw([".."], (0, 1), [], "playing", 0, values={(0, 0): -0.98}, policy={(0, 0): shares})
    x, foot = map(float, re.search(r'<text x="([\d.]+)" y="([\d.]+)"[^>]*>-0.98<', drawn).groups())
    assert x < 5 and (foot > SIZE / 2) == (half == "lower")
    tip = re.search(r'<line[^>]* x2="([\d.]+)" y2="([\d.]+)"', drawn).groups()
    assert abs(float(tip[1]) - foot) > SIZE / 4
