"""The Keras side of peers.py: the same networks, trained by `fit` and tested by `evaluate` on arrays in memory.

    python benchmarks/keras_loop.py NETWORK IMAGES.npz OPTIMIZER LR BATCH_SIZE SCALE

peers.py runs it by an interpreter that has Keras and TensorFlow, so it imports nothing of this project. It prints
`ready`, then three numbers for every line on standard input: the seconds of a pass over SCALE times as many training
images, a 0 (Keras does not make batches apart from training), and the seconds of a pass over the test images.
"""

import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers


def network(name: str) -> keras.Model:
    if name == "cnn":
        parts = [
            keras.Input((32, 32, 1)),
            layers.Conv2D(32, 5, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 5, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(1024, activation="tanh"),
        ]
    else:
        cell = {"rnn": layers.SimpleRNN, "lstm": layers.LSTM, "gru": layers.GRU}[name]
        parts = [keras.Input((28, 28)), cell(128)]
    return keras.Sequential([*parts, layers.Dense(10)])


def main() -> None:
    name, path, optimizer, lr, batch_size, scale = sys.argv[1:]
    content = dict(np.load(path))
    inputs, labels = content["train_inputs"], content["train_labels"]
    model = network(name)
    kind = {"adam": keras.optimizers.Adam, "adagrad": keras.optimizers.Adagrad}[optimizer]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(kind(learning_rate=float(lr)), loss=loss, metrics=["accuracy"])

    def train(count: int | None = None) -> float:
        started = time.perf_counter()
        model.fit(inputs[:count], labels[:count], batch_size=int(batch_size), epochs=1, verbose=0)
        return time.perf_counter() - started

    def test() -> float:
        started = time.perf_counter()
        model.evaluate(content["test_inputs"], content["test_labels"], batch_size=int(batch_size), verbose=0)
        return time.perf_counter() - started

    train(), test()  # trace the graphs
    print("ready", flush=True)
    for _ in sys.stdin:
        call = train(int(batch_size))  # what a call of `fit` costs with one batch is paid once, so it is not multiplied
        print(call + (train() - call) * float(scale), 0.0, test(), flush=True)


if __name__ == "__main__":
    main()
