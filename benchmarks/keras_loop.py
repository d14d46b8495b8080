"""The Keras side of peers.py: the same networks, trained by `fit` and tested by `evaluate` on arrays in memory.

    python benchmarks/keras_loop.py NETWORK IMAGES.npz OPTIMIZER LR BATCH_SIZE TRAIN_SCALE TEST_SCALE

Run by peers.py with an interpreter that has Keras and TensorFlow; imports nothing of this project. Prints "ready", then
for every line on standard input three numbers: the seconds of one pass over the training images times TRAIN_SCALE, a 0,
and those of one over the test images times TEST_SCALE.
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
    name, path, optimizer, lr, batch_size, train_scale, test_scale = sys.argv[1:]
    content = np.load(path)
    images = {which: (content[f"{which}_inputs"], content[f"{which}_labels"]) for which in ("train", "test")}
    model = network(name)
    kind = {"adam": keras.optimizers.Adam, "adagrad": keras.optimizers.Adagrad}[optimizer]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(kind(learning_rate=float(lr)), loss=loss, metrics=["accuracy"])

    def train() -> float:
        started = time.perf_counter()
        model.fit(*images["train"], batch_size=int(batch_size), epochs=1, verbose=0)
        return time.perf_counter() - started

    def test() -> float:
        started = time.perf_counter()
        model.evaluate(*images["test"], batch_size=int(batch_size), verbose=0)
        return time.perf_counter() - started

    train(), test()  # trace the graphs
    print("ready", flush=True)
    for _ in sys.stdin:
        print(train() * float(train_scale), 0.0, test() * float(test_scale), flush=True)


if __name__ == "__main__":
    main()
