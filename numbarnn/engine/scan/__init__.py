"""The time loops of the CPU, written once for every cell: forward, backward, weight gradients.

Notation: T steps, B rows, I inputs, H hidden units, G sums a unit (see
``cells/contract.py``), N valid steps of all rows together. A gradient has its array's name with d in front.

Rows are sorted by falling length. Step t touches the first ``active[t]`` rows; inputs and outputs of row b
stand at ``offset[t] + b`` in their arrays of N rows, so that padding exists nowhere. Gates and states are
kept in bands, one for each part of the rows (see ``layers/bands.py``): of part p, the gates of step t begin
at row ``gate_offset[p, t]`` of N, and the states number s at row ``state_offset[p, s]`` of B + N. Forward in
time, step t reads states t and writes states t + 1, and states 0 are the initial ones. In reverse, step t
reads states t + 1 and writes states t, and the initial state of a row is number ``length`` of that row.

Hidden units are padded to whole vectors, ``groups`` of them; padded lanes stay 0. Each part works on a
range of rows (or, for weight gradients, of panels) that no other thread touches.
"""
