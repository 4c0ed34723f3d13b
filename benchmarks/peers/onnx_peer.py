"""ONNX Runtime's side of the comparison: inference by a model of one node. Inputs are (T, B, I)."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from benchmarks.comparison.work import Work
from benchmarks.problems import Shape, inputs, parameters, parse_shape

OPSET, IR_VERSION = 17, 8
KINDS = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN"}
# Where each of ONNX's gates stands among PyTorch's: i o f c of i f g o, and z r h of r z n.
GATE_ORDER = {"lstm": [0, 3, 1, 2], "gru": [1, 0, 2], "rnn": [0]}
# PyTorch's GRU scales the recurrent product by the reset gate, and not the state.
ATTRIBUTES = {"lstm": {}, "gru": {"linear_before_reset": 1}, "rnn": {}}

thread_count = 1


def use_threads(count: int) -> None:
    global thread_count
    thread_count = count


def in_onnx_order(cell: str, values: np.ndarray) -> np.ndarray:
    gates = np.split(values, len(GATE_ORDER[cell]))
    return np.concatenate([gates[k] for k in GATE_ORDER[cell]])


def make_model(cell: str, shape: Shape) -> bytes:
    """A model with the input x and the output y (T, 1, B, H)."""
    values = {
        name.removesuffix("_l0"): in_onnx_order(cell, array)
        for name, array in parameters(cell, shape.I, shape.H).items()
    }
    tensors = {
        "W": values["weight_ih"][None],
        "R": values["weight_hh"][None],
        "B": np.concatenate([values["bias_ih"], values["bias_hh"]])[None],
    }
    node = helper.make_node(KINDS[cell], ["x", *tensors], ["y"], hidden_size=shape.H, **ATTRIBUTES[cell])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, (shape.T, shape.B, shape.I))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, (shape.T, 1, shape.B, shape.H))
    initializers = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    model = helper.make_model(
        helper.make_graph([node], cell, [x], [y], initializers),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(model)
    return model.SerializeToString()


def layer(cell: str, shape_text: str) -> Work:
    shape = parse_shape(shape_text)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = thread_count, 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(
        make_model(cell, shape), options, providers=["CPUExecutionProvider"]
    )
    feed = {"x": np.ascontiguousarray(inputs(shape)[0].transpose(1, 0, 2))}

    def forward() -> np.ndarray:
        return session.run(["y"], feed)[0]

    return Work({"forward": forward}, lambda: {"y": forward()[:, 0]})
