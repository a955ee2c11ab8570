"""Every exporter's page comes out in the same units; what cannot be is refused, what is blank is absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadgen.telemetry.prometheus_text import LABEL, MIB, read_page

SCRAPES = Path(__file__).parents[1] / "data" / "scrapes"


def values(text: str) -> dict[tuple[str, str], float]:
    return {(metric, subject): value for metric, subject, value in read_page(text).readings}


def golden(name: str) -> dict[tuple[str, str], float]:
    return values((SCRAPES / name).read_text())


def test_dcgm_exporter() -> None:
    assert golden("dcgm.txt") == {
        ("gpu_sm_clock_hz", "GPU-aaaa"): 1.98e9,
        ("gpu_sm_clock_hz", "GPU-bbbb"): 0.345e9,
        ("gpu_memory_clock_hz", "GPU-aaaa"): 3.201e9,
        ("gpu_temperature_c", "GPU-aaaa"): 41,
        ("gpu_power_w", "GPU-aaaa"): 412.508,  # the other's is DCGM's blank: not known, and no 1.4e14 W
        ("gpu_energy_j", "GPU-aaaa"): pytest.approx(13428913.042),
        ("gpu_utilization", "GPU-aaaa"): 0.97,
        ("gpu_utilization", "GPU-bbbb"): 0.0,  # a measured zero stays one
        ("gpu_memory_free_bytes", "GPU-aaaa"): 116000 * MIB,
        ("gpu_memory_free_bytes", "GPU-bbbb"): 142773 * MIB,
        ("gpu_memory_used_bytes", "GPU-aaaa"): 26773 * MIB,
        ("gpu_memory_used_bytes", "GPU-bbbb"): 0.0,
        ("gpu_memory_total_bytes", "GPU-aaaa"): 142773 * MIB,
        ("gpu_memory_total_bytes", "GPU-bbbb"): 142773 * MIB,
    }


def test_triton_without_gpus_tells_of_the_host_only() -> None:
    assert golden("triton-cpu.txt") == {
        ("host_memory_total_bytes", "host"): 25276518400,
        ("host_memory_used_bytes", "host"): 2456981504,
    }


def test_a_card_that_triton_cannot_read_has_no_reading() -> None:
    page = read_page((SCRAPES / "triton-blind.txt").read_text())
    assert page.blind == ("GPU-aaaa",)
    assert page.readings == (("host_memory_total_bytes", "host", 25276518400.0),)


def test_vllm() -> None:
    assert golden("vllm.txt") == {
        ("engine_running", "engine"): 8,
        ("engine_waiting", "engine"): 0,
        ("kv_usage", "engine"): 0.25,
        ("engine_output_tokens", "engine"): 4096,
        ("kv_capacity_tokens", "engine"): 5691 * 16,
    }


def test_our_server_on_a_cpu_has_no_cuda_memory() -> None:
    found = golden("hf-cpu.txt")
    assert found["engine_output_tokens", "engine"] == 0
    assert not [
        metric for metric, _ in found if metric.startswith(("gpu_", "engine_allocated", "engine_peak"))
    ]


def test_ranks_and_process_owners_are_kept_apart() -> None:
    held = 'loadgen_gpu_process_memory_bytes{gpu="0",UUID="GPU-aaaa",pid="%s",owner="%s"} %d\n'
    text = 'hf_cuda_allocated_bytes{rank="0"} 10\nhf_cuda_allocated_bytes{rank="1"} 12\n'
    text += held % (7, "server", 100) + held % (8, "server", 30) + held % (9, "foreign", 5)
    assert values(text) == {
        ("engine_allocated_bytes", "0"): 10,
        ("engine_allocated_bytes", "1"): 12,
        ("gpu_server_memory_bytes", "GPU-aaaa"): 130,
        ("gpu_server_processes", "GPU-aaaa"): 2,
        ("gpu_foreign_memory_bytes", "GPU-aaaa"): 5,
        ("gpu_foreign_processes", "GPU-aaaa"): 1,
    }


@pytest.mark.parametrize(
    "line",
    [
        'DCGM_FI_DEV_GPU_UTIL{UUID="GPU-aaaa"} 250',
        'DCGM_FI_DEV_GPU_UTIL{UUID="GPU-aaaa"} -1',
        'DCGM_FI_DEV_POWER_USAGE{UUID="GPU-aaaa"} NaN',
        'nv_gpu_power_usage{gpu_uuid="GPU-aaaa"} +Inf',
        "vllm:kv_cache_usage_perc 25",
    ],
)
def test_a_value_that_cannot_be_is_refused_and_told(line: str) -> None:
    page = read_page(line)
    assert page.readings == ()
    assert len(page.refused) == 1
    assert page.refused[0].startswith(line.split("{")[0].split(" ")[0])


def test_more_memory_used_than_there_is_is_refused() -> None:
    text = 'nv_gpu_memory_total_bytes{gpu_uuid="a"} 100\nnv_gpu_memory_used_bytes{gpu_uuid="a"} 101\n'
    assert values(text) == {("gpu_memory_total_bytes", "a"): 100}
    assert read_page(text).refused == ("used memory 101 of 100 bytes",)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html><body>502 Bad Gateway</body></html>",
        "DCGM_FI_DEV_GPU_UTIL",
        'DCGM_FI_DEV_GPU_UTIL{UUID="GPU-aaaa"} high',
        'DCGM_FI_DEV_GPU_UTIL{UUID="GPU-aaaa',
        "DCGM_FI_DEV_GPU_UTIL 97",  # of which card?
        "other_metric 1",
    ],
)
def test_what_tells_nothing_gives_nothing(text: str) -> None:
    page = read_page(text)
    assert (page.readings, page.refused, page.blind) == ((), (), ())


def test_the_type_that_a_page_declares_changes_no_value() -> None:
    text = '# TYPE DCGM_FI_DEV_POWER_USAGE counter\nDCGM_FI_DEV_POWER_USAGE{UUID="a", pod="x y"} 90 1700000000000\n'
    assert values(text) == {("gpu_power_w", "a"): 90}


def test_a_line_of_one_long_word_is_read_in_one_pass() -> None:
    steps = LABEL.findall("a" * 200_000)  # with a step from every letter to the end, this is for minutes
    assert steps == []
    assert read_page("DCGM_FI_DEV_FB_USED{" + "a" * 200_000 + "} 1\n").readings == ()


def test_engines_side_by_side_are_summed_and_their_cache_shares_averaged() -> None:
    page = "".join(
        f'vllm:num_requests_running{{engine="{engine}",model_name="m"}} {running}\n'
        f'vllm:generation_tokens_total{{engine="{engine}",model_name="m"}} {tokens}\n'
        f'vllm:kv_cache_usage_perc{{engine="{engine}"}} {share}\n'
        f'vllm:gpu_cache_usage_perc{{engine="{engine}"}} {share}\n'
        f'vllm:cache_config_info{{block_size="16",num_gpu_blocks="1000",engine="{engine}"}} 1.0\n'
        for engine, running, tokens, share in ((0, 6, 1000, 0.5), (1, 2, 500, 0.25))
    )
    assert values(page) == {
        ("engine_running", "engine"): 8,
        ("engine_output_tokens", "engine"): 1500,
        ("kv_usage", "engine"): 0.375,
        ("kv_capacity_tokens", "engine"): 32000,
    }


@pytest.mark.parametrize(
    ("line", "reading"),
    [
        ('DCGM_FI_DEV_GPU_UTIL{gpu="0",uuid="GPU-1"} 40', ("gpu_utilization", "GPU-1", 0.4)),
        (
            'vllm:generation_tokens_total{engine="0"} 100 # {trace_id="a"} 1',
            ("engine_output_tokens", "engine", 100.0),
        ),
        ("vllm:generation_tokens_total 100 1712345678 # {} 1 2.5", ("engine_output_tokens", "engine", 100.0)),
        ('DCGM_FI_DEV_GPU_UTIL{UUID="GPU-1"} 90 1712345678.123', ("gpu_utilization", "GPU-1", 0.9)),
        ('DCGM_FI_DEV_GPU_UTIL{UUID="GPU-1",pod="a}b"} 90', ("gpu_utilization", "GPU-1", 0.9)),
        (' DCGM_FI_DEV_GPU_UTIL { Uuid = "GPU-1" , }90 1.712e+09', ("gpu_utilization", "GPU-1", 0.9)),
        ("\ufeffvllm:num_requests_running 6", ("engine_running", "engine", 6.0)),
    ],
)
def test_other_spellings_of_a_line(line: str, reading: tuple[str, str, float]) -> None:
    assert read_page(line + "\n").readings == (reading,)


@pytest.mark.parametrize("label", ["GPU_I_ID", "gpu_i_id"])
def test_slices_of_a_gpu_alone_are_said_to_be_ones(label: str) -> None:
    page = read_page(f'DCGM_FI_DEV_GPU_UTIL{{UUID="GPU-1",{label}="3"}} 40\n')
    assert page.readings == ()
    assert "MIG slices alone" in page.refused[0]


def test_without_a_figure_of_each_engine_there_is_no_sum() -> None:
    running = 'vllm:num_requests_running{engine="0"} 6\nvllm:num_requests_running{engine="1"} '
    assert read_page(f"{running}2\n").readings == (("engine_running", "engine", 8.0),)
    page = read_page(f'{running}NaN\nvllm:cache_config_info{{num_gpu_blocks="-1",block_size="16"}} 1\n')
    assert (page.readings, page.refused) == ((), ("vllm:num_requests_running = nan",))


def test_figures_too_large_for_any_unit_are_refused_and_never_infinite() -> None:
    blocks = f'vllm:cache_config_info{{num_gpu_blocks="9{"9" * 400}",block_size="9"}} 1'
    page = read_page(f"DCGM_FI_DEV_GPU_TEMP 1e300\n{blocks}\n")
    assert (page.readings, page.refused) == ((), ("DCGM_FI_DEV_GPU_TEMP = 1e+300",))
