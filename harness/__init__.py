"""What every script needs: flags, data, the training loop, the run folder, TensorBoard events and plots.

It knows neither which networks exist (`models`) nor what is done to a trained one (`interpret`). Start reading at
`train.py`.
"""
