"""Layers of the GPU whose hidden units are shared out among blocks: see ``engine/cuda/teams.py``.

Where a GPU is emulated, blocks run one after the other, so that a team has one block there.
"""

import pytest
import reference
from conftest import LAYERS, TOLERANCE, assert_close, make_layer, on_emulated_gpu, random_problem, run_layer

each_cell = pytest.mark.parametrize("cell", LAYERS)

SIZE = (4, 5, 2, 3)  # T, B, I, H


def run_on_gpu(problem, **options):
    return run_layer(make_layer(problem, device="cuda", **options), problem)


@on_emulated_gpu
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one-way", "two-way"])
@pytest.mark.parametrize("teams", [1, 2, 132])
@each_cell
def test_teams_agree_with_the_reference(teams_of_one, cell, teams, bidirectional):
    """One team with all rows, two with several each, and one for each row."""
    teams_of_one(teams)
    problem = random_problem(cell, SIZE, bidirectional=bidirectional, ragged=True)
    assert_close(run_on_gpu(problem), reference.run(*problem), TOLERANCE["float64"])


@on_emulated_gpu
@pytest.mark.parametrize("near_pieces", [0, 1])
@pytest.mark.parametrize("lanes", [2, 4])
@each_cell
def test_weights_in_shared_memory(teams_of_one, cell, lanes, near_pieces):
    teams_of_one(2, near_pieces, lanes)
    problem = random_problem(cell, SIZE, ragged=True, bias=False)
    assert_close(run_on_gpu(problem), reference.run(*problem), TOLERANCE["float64"])


@on_emulated_gpu
def test_which_layers_have_a_team():
    """Blocks are as few as have half of the weights in registers, and teams as many as there is room for."""
    from numbarnn.cells import CELLS
    from numbarnn.engine.cuda.teams import MOST_ROWS, team_for

    cell, shared_memory = CELLS["lstm"], 227 * 1024
    team = team_for(cell, 256, "float32", None, shared_memory, 132)
    assert team.blocks * team.units >= 256 > (team.blocks - 1) * team.units
    assert 2 * team.plan.near_pieces >= team.plan.runs * cell.product_width
    assert team.fits(cell, "float32", shared_memory)
    assert not team.fits(cell, "float32", team.plan.shared_bytes)
    assert team_for(cell, 256, "float32", None, shared_memory, team.blocks - 1) != team
    assert team_for(cell, 256, "float32", None, shared_memory, 1) is None
    assert team_for(cell, 4096, "float32", None, shared_memory, 132) is None
    teams = 132 // team.blocks
    assert [team.teams(rows, 132) for rows in (1, teams, teams + 1)] == [1, teams, teams]
    assert team.takes(MOST_ROWS * teams, 132)
    assert not team.takes(MOST_ROWS * teams + 1, 132)


@on_emulated_gpu
def test_too_many_rows_go_step_by_step(teams_of_one, monkeypatch):
    from numbarnn.engine.cuda import scan_by_teams, teams

    def refuse(*arguments):
        raise AssertionError("no kernel of a team is wanted")

    teams_of_one(1)
    monkeypatch.setattr(teams, "MOST_ROWS", SIZE[1] - 1)
    for name in ("forward", "backward"):
        monkeypatch.setattr(scan_by_teams, name, refuse)
    problem = random_problem("gru", SIZE, ragged=True)
    assert_close(run_on_gpu(problem), reference.run(*problem), TOLERANCE["float64"])
