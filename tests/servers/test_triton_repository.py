"""config.pbtxt, read back by Triton's own protobuf."""

from typing import Any

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2

from loadgen.servers._triton.repository import Repository


def parsed(repository: Repository) -> Any:
    return text_format.Parse(repository.config(), model_config_pb2.ModelConfig())


@pytest.mark.parametrize("decoupled", [True, False])
@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("backend", ["fastertransformer", "python"])
def test_every_configuration_is_read_by_triton_s_protobuf(
    decoupled: bool, dynamic: bool, backend: str
) -> None:
    config = parsed(
        Repository(
            backend=backend,
            decoupled=decoupled,
            max_batch=64,
            dynamic_batching=dynamic,
            queue_delay_us=2000,
            parameters={"tensor_para_size": "2", "model_type": "Llama"},
        )
    )
    assert (config.name, config.backend, config.max_batch_size) == ("fastertransformer", backend, 64)
    assert config.model_transaction_policy.decoupled is decoupled
    (group,) = config.instance_group
    assert (group.count, group.kind) == (1, model_config_pb2.ModelInstanceGroup.KIND_CPU)
    assert {key: value.string_value for key, value in config.parameters.items()} == {
        "tensor_para_size": "2",
        "model_type": "Llama",
    }
    assert config.HasField("dynamic_batching") is dynamic
    assert config.input[0].allow_ragged_batch is dynamic
    assert [list(b.target_name) for b in config.batch_input] == (
        [["input_ids_item_shape"]] if dynamic else []
    )
    if dynamic:
        assert config.dynamic_batching.max_queue_delay_microseconds == 2000
        assert config.batch_input[0].kind == model_config_pb2.BatchInput.BATCH_ITEM_SHAPE


def test_tensors_are_those_of_the_contract() -> None:
    config = parsed(Repository(backend="fastertransformer", decoupled=True))
    types = model_config_pb2.DataType
    inputs = {tensor.name: tensor for tensor in config.input}
    assert [name for name, tensor in inputs.items() if not tensor.optional] == [
        "input_ids",
        "input_lengths",
        "request_output_len",
    ]
    assert (list(inputs["input_ids"].dims), inputs["input_ids"].HasField("reshape")) == ([-1], False)
    assert (list(inputs["input_lengths"].dims), list(inputs["input_lengths"].reshape.shape)) == ([1], [])
    assert inputs["input_lengths"].HasField("reshape")
    assert {name for name, tensor in inputs.items() if tensor.optional} == {
        "runtime_top_k", "start_id", "end_id", "beam_width", "top_p_reset_ids", "prompt_learning_task_name_ids",
        "runtime_top_p", "beam_search_diversity_rate", "temperature", "len_penalty", "repetition_penalty",
        "top_p_decay", "top_p_min", "random_seed", "is_return_log_probs", "bad_words_list", "stop_words_list",
    }  # fmt: skip
    assert inputs["random_seed"].data_type == types.TYPE_UINT64
    assert inputs["is_return_log_probs"].data_type == types.TYPE_BOOL
    assert (inputs["stop_words_list"].data_type, list(inputs["stop_words_list"].dims)) == (
        types.TYPE_INT32,
        [2, -1],
    )
    assert [(t.name, t.data_type, list(t.dims)) for t in config.output] == [
        ("output_ids", types.TYPE_UINT32, [-1, -1]),
        ("sequence_length", types.TYPE_UINT32, [-1]),
        ("cum_log_probs", types.TYPE_FP32, [-1]),
        ("output_log_probs", types.TYPE_FP32, [-1, -1]),
    ]


@given(st.text(st.characters(codec="utf-8")))
def test_any_path_survives_the_text_format(path: str) -> None:
    config = parsed(Repository(backend="fastertransformer", decoupled=True, parameters={"path": path}))
    assert config.parameters["path"].string_value == path


def test_the_version_folder_exists_for_every_backend() -> None:
    ft = Repository(backend="fastertransformer", decoupled=True).files()
    assert list(ft) == ["repository/fastertransformer/config.pbtxt", "repository/fastertransformer/1/README"]
    python = Repository(backend="python", decoupled=True).files("import sys\n")
    assert python["repository/fastertransformer/1/model.py"] == "import sys\n"
