"""PacmanGrid: gymnasium's checker, the rules against a second writing of them, pictures, and what is refused."""

from __future__ import annotations

import itertools
import subprocess
import sys
import warnings
from pathlib import Path
from xml.etree import ElementTree

import gymnasium
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from rlkit import lab
from rlkit.errors import ConfigError
from rlkit.lab.pacman import ACTIONS, MAPS, PacmanGrid
from rlkit.lab.patience import wilson_interval

UP, LEFT, RIGHT, DOWN = range(4)


@pytest.mark.parametrize("slip", [0.0, 0.2])
@pytest.mark.parametrize("grid", MAPS)
def test_gymnasiums_checker_has_nothing_to_say(grid, slip):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make("rlkit/PacmanGrid-v0", grid=grid, slip=slip).unwrapped)


def test_it_is_registered_and_importing_the_lab_is_light():
    code = "import sys, rlkit.lab, gymnasium as g; print('rlkit/PacmanGrid-v0' in g.registry, 'torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent.parent, capture_output=True, text=True
    )
    assert done.stdout.split() == ["True", "False"], done.stderr
    assert sorted(set(dir(lab))) == sorted(lab.__all__) and all(
        getattr(lab, name) is not None for name in lab.__all__
    )


def test_a_game_that_is_won():
    env = PacmanGrid("first")
    observation, info = env.reset(seed=0)
    assert (observation, info) == (0, {"outcome": "playing", "cookies_left": 3})
    total, outcomes = 0.0, []
    for action in (DOWN, DOWN, UP, UP, RIGHT, RIGHT):
        _, reward, terminated, truncated, info = env.step(action)
        total += reward
        outcomes.append((round(reward, 2), terminated, truncated, info["outcome"], info["cookies_left"]))
    assert outcomes[1] == (0.99, False, False, "playing", 2)
    assert outcomes[-1][:4] == (0.99, False, False, "playing")
    for action in (LEFT, DOWN, DOWN, RIGHT):
        *_, terminated, _, info = env.step(action)
    assert terminated and info == {"outcome": "won", "cookies_left": 0}
    with pytest.raises(ConfigError, match="before reset"):
        env.step(UP)


def test_an_enemy_ends_it_and_a_wall_does_not():
    env = PacmanGrid(("#P.", " E "), enemy=-2.0, step=-0.5)
    env.reset()
    assert env.step(LEFT)[:4] == (0, -0.5, False, False)  # the wall
    assert env.step(UP)[:4] == (0, -0.5, False, False)  # the edge
    _, reward, terminated, truncated, info = env.step(DOWN)
    assert (reward, terminated, truncated, info["outcome"]) == (-2.5, True, False, "lost")


def test_an_episode_is_cut_off_and_that_is_no_end():
    env = PacmanGrid("guide", max_steps=3)
    env.reset()
    assert [env.step(UP)[2:4] for _ in range(3)] == [(False, False), (False, False), (False, True)]


def test_the_seed_decides_how_one_slips():
    def walk(seed):
        env = PacmanGrid("guide", slip=0.5)
        env.reset(seed=seed)
        return [env.step(action)[0] for action in (RIGHT, DOWN, RIGHT)]

    assert walk(3) == walk(3)
    assert len({tuple(walk(seed)) for seed in range(20)}) > 3


def test_slipping_goes_sideways_as_often_as_said():
    env = PacmanGrid(("   ", " P ", ".  "), slip=0.3, max_steps=2)
    seen = {(0, 1): 0, (2, 1): 0, (1, 2): 0, (1, 0): 0}
    env.reset(seed=1)
    for _ in range(4000):
        env.reset()
        seen[env.states[env.step(RIGHT)[0]][0]] += 1
    assert seen[(1, 0)] == 0  # never backwards
    for cell, share in (((1, 2), 0.7), ((0, 1), 0.15), ((2, 1), 0.15)):
        assert wilson_interval(seen[cell], 4000, z=4).holds(share)


@pytest.mark.parametrize("grid", ["first", "maze"])
def test_the_model_says_what_a_second_writing_of_the_rules_says(grid):
    env = PacmanGrid(grid, slip=0.2, cookie=2.0, enemy=-3.0, step=-0.1)
    rows, model = MAPS[grid], env.model
    assert torch.allclose(model.probability.sum(-1), torch.ones(1).double())
    moves = {UP: (-1, 0), DOWN: (1, 0), LEFT: (0, -1), RIGHT: (0, 1)}
    for s, ((r, c), left) in enumerate(env.states):
        over = not left or rows[r][c] == "E"
        assert bool(model.terminal[s]) == over
        for a, k in itertools.product(range(4), range(3)):
            if over:
                assert int(model.next_state[s, a, k]) == s and float(model.reward[s, a, k]) == 0
                continue
            across = [UP, DOWN] if a in (LEFT, RIGHT) else [LEFT, RIGHT]
            dr, dc = moves[[a, *across][k]]
            y, x = r + dr, c + dc
            if y < 0 or x < 0 or y >= len(rows) or x >= len(rows[0]) or rows[y][x] == "#":
                y, x = r, c
            expected = -0.1 + 2.0 * ((y, x) in left) - 3.0 * (rows[y][x] == "E")
            assert env.states[int(model.next_state[s, a, k])] == ((y, x), left - {(y, x)})
            assert float(model.reward[s, a, k]) == pytest.approx(expected, abs=1e-12)
            assert float(model.probability[s, a, k]) == pytest.approx((0.8, 0.1, 0.1)[k])


def test_features_tell_all_states_apart():
    for grid in MAPS:
        features = PacmanGrid(grid).features
        assert len(features.unique(dim=0)) == len(features)


def test_the_picture_is_well_formed_and_says_in_words_what_it_shows():
    env = PacmanGrid("guide", render_mode="svg")
    env.reset()
    plan = lab.value_iteration(env.model)
    for svg in (env.render(), env._repr_svg_(), env.svg(plan.values, plan.policy)):
        root = ElementTree.fromstring(svg)
        assert root.get("role") == "img" and "Pac-Man stands in row 1, column 1" in root.get("aria-label")
        assert "3 cookies left, 2 enemies" in root.get("aria-label")
        assert root[0].tag.endswith("title") and root[0].text == root.get("aria-label")
    assert (
        len([e for e in root if e.tag.endswith("polygon")]) == 4
    )  # an arrow for each cell that is reached without a cookie
    assert env._repr_html_().startswith("<div><svg")
    env.step(RIGHT)
    assert "after 1 step." in env.svg()
    env = PacmanGrid(("PE", ". "), render_mode="ansi")
    env.reset()
    assert env.render() == "PE\n. "
    env.step(RIGHT)
    assert env.render() == " X\n. " and "met an enemy: lost" in env.svg()
    assert PacmanGrid().render() is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"grid": "guid"}, "Did you mean 'guide'"),
        ({"grid": ("P.", " ")}, "equal length"),
        ({"grid": ("P. ", " X ")}, "equal length"),
        ({"grid": ("   ", " . ")}, "one P"),
        ({"grid": ("P  ",)}, "at least one cookie"),
        ({"slip": 1.5}, "slip=1.5"),
        ({"max_steps": 0}, "max_steps=0"),
        ({"render_mode": "human"}, "render_mode='human'"),
        ({"grid": ("P....", ".....", ".....", ".....")}, "20,000 states"),
    ],
)
def test_what_is_refused(arguments, words):
    with pytest.raises(ConfigError, match=words):
        PacmanGrid(**arguments)


def test_an_action_that_does_not_exist():
    env = PacmanGrid()
    env.reset()
    with pytest.raises(ConfigError, match="0 UP"):
        env.step(len(ACTIONS))
