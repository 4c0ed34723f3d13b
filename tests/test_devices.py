"""Where there is no GPU: one clear error, and no trace of having asked."""

import copy
import pickle
import subprocess
import sys

import pytest

import numbarnn
from numbarnn import devices as cuda_probe


@pytest.fixture
def without_gpu(monkeypatch):
    monkeypatch.setattr(cuda_probe.config, "ENABLE_CUDASIM", 0)
    monkeypatch.setattr(cuda_probe, "_count_gpus", lambda: 0)


@pytest.fixture
def without_cupy(monkeypatch):
    monkeypatch.setattr(cuda_probe.config, "ENABLE_CUDASIM", 0)
    monkeypatch.setattr(cuda_probe, "_count_gpus", lambda: 1)
    monkeypatch.setattr(cuda_probe, "_has_cupy", lambda: False)


LAYERS = (
    lambda **options: numbarnn.RNN(3, **options),
    lambda **options: numbarnn.LSTM(3, **options),
    lambda **options: numbarnn.GRU(3, **options),
    lambda **options: numbarnn.Dense(3, **options),
    lambda **options: numbarnn.Embedding(3, 2, **options),
    lambda **options: numbarnn.Dropout(0.5, **options),
    numbarnn.MeanOverTime,
    numbarnn.MaxOverTime,
)


@pytest.mark.parametrize("make", LAYERS)
def test_no_gpu_is_one_clear_error(without_gpu, make):
    assert not numbarnn.cuda_available()
    with pytest.raises(RuntimeError, match=r'^device="cuda" needs an NVIDIA GPU and its driver'):
        make(device="cuda")
    layer = make()
    with pytest.raises(RuntimeError, match="NVIDIA GPU"):
        layer.to("cuda")
    assert layer.device == "cpu"
    with pytest.raises(ValueError, match="device must be one of 'cpu', 'cuda', not 'gpu'"):
        make(device="gpu")


def test_a_model_stays_where_it_is(without_gpu):
    model = numbarnn.Sequential(numbarnn.LSTM(3), numbarnn.Dense(2))
    with pytest.raises(RuntimeError, match="NVIDIA GPU"):
        model.to("cuda")
    with pytest.raises(RuntimeError, match="NVIDIA GPU"):
        numbarnn.Sequential(numbarnn.LSTM(3), device="cuda")
    assert model.device == "cpu"


def test_a_gpu_without_cupy_says_what_to_install(without_cupy):
    assert not numbarnn.cuda_available()
    with pytest.raises(ImportError, match=r'pip install "numbarnn\[cuda13\]"'):
        numbarnn.LSTM(3, device="cuda")


def test_what_was_saved_on_a_gpu_loads_without_one(monkeypatch):
    monkeypatch.setattr(cuda_probe.config, "ENABLE_CUDASIM", 1)
    layer = numbarnn.LSTM(3, device="cuda")
    saved = pickle.dumps(layer)
    assert copy.copy(layer).device == "cuda"
    monkeypatch.setattr(cuda_probe.config, "ENABLE_CUDASIM", 0)
    monkeypatch.setattr(cuda_probe, "_count_gpus", lambda: 0)
    with pytest.warns(RuntimeWarning, match="LSTM that worked on a GPU was loaded where there is none"):
        assert pickle.loads(saved).device == "cpu"


def test_layers_of_a_model_work_on_one_device(monkeypatch):
    monkeypatch.setattr(cuda_probe.config, "ENABLE_CUDASIM", 1)
    with pytest.raises(ValueError, match=r"one device, not on \['cuda', 'cpu'\]"):
        numbarnn.Sequential(numbarnn.LSTM(3, device="cuda"), numbarnn.Dense(2))


def test_asking_leaves_no_trace():
    """No CUDA target, no CuPy, and no driver that a forked child could not use."""
    script = (
        "import sys, numbarnn\n"
        "numbarnn.cuda_available()\n"
        "assert not {'numba.cuda', 'cupy'} & set(sys.modules)\n"
        "maps = open('/proc/self/maps').read() if sys.platform == 'linux' else ''\n"
        "assert 'libcuda.so' not in maps\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("hidden", ["", "-1", " -1,0"])
def test_hidden_gpus_do_not_count(monkeypatch, hidden):
    def refuse(name):
        raise AssertionError("the driver is not asked where all GPUs are hidden")

    monkeypatch.setattr(cuda_probe.ctypes, "CDLL", refuse)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert cuda_probe._count_gpus() == 0


def test_the_driver_is_asked_and_let_go(monkeypatch):
    asked = []

    class Driver:
        def nvmlInit_v2(self):  # noqa: N802 (the driver's name)
            asked.append("init")
            return 0

        def nvmlDeviceGetCount_v2(self, count):  # noqa: N802
            count._obj.value = 2
            return 0

        def nvmlShutdown(self):  # noqa: N802
            asked.append("shutdown")

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(cuda_probe.ctypes, "CDLL", lambda name: Driver())
    assert cuda_probe._count_gpus() == 2
    assert asked == ["init", "shutdown"]
