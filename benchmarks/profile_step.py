"""Show what the time of a training step is spent on: the operations of our loop on a CPU, the slowest first.

    python benchmarks/profile_step.py cnn --precision bf16 --batch-size 256 --threads 1

PyTorch's profiler watches some steps, after as many to warm up. Each time is the operation's own, without those that it
calls. The profiler makes a step longer, so the time of a step without it stands above the table. Needs the real sets.
"""

import sys

from common import BATCH_SIZE, NETWORKS, argument_parser, our_loop, time_of


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("network", choices=tuple(NETWORKS))
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of the loop")
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE, help="images a step")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--steps", type=int, default=20, help="that are measured")
    parser.add_argument("--rows", type=int, default=16, help="of the table")
    arguments = parser.parse_args()

    import torch
    from torch.profiler import ProfilerActivity, profile

    from harness.data import load_images

    sys.stdout.reconfigure(errors="backslashreplace")  # a terminal need not know "×"
    torch.set_num_threads(arguments.threads)
    network = NETWORKS[arguments.network]
    images = load_images(network.images, data_dir=arguments.data_dir)
    train = our_loop(network, images, arguments.precision, arguments.batch_size).train
    steps = arguments.steps
    train(steps)
    alone = time_of(lambda: train(steps)) / steps
    for _ in range(2):  # the first steps under the profiler allocate memory anew, so the second round counts
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
            watched = time_of(lambda: train(steps)) / steps
    operations = sorted(profiled.key_averages(group_by_input_shape=True), key=lambda event: -event.self_cpu_time_total)
    print(f"a step takes {alone * 1e3:.2f} ms, under the profiler {watched * 1e3:.2f} ms\n")
    print(f"{'ms a step':>9}  {'share':>6}  {'calls':>5}  operation and the sizes of its first inputs")
    for event in operations[: arguments.rows]:
        milliseconds = event.self_cpu_time_total / 1e3 / steps
        sizes = ", ".join("×".join(map(str, size)) for size in event.input_shapes[:3] if size)
        name, share = event.key.removeprefix("aten::"), milliseconds / watched / 1e3
        print(f"{milliseconds:9.3f}  {share:6.1%}  {event.count / steps:5.0f}  {name}  {sizes}")


if __name__ == "__main__":
    main()
