"""What one does with a method: train it on a few images, predict, save, load. No Dassl, no config, no data set.

    >>> from mocoop import Classifier, load
    >>> clf = Classifier("MoCoOp", backbone="demo").fit("photos")  # one folder of images per class
    >>> clf.predict(["new.jpg"])
    >>> clf.save("birds.safetensors")
    >>> load("birds.safetensors").predict_proba("more")

`classifier` is the class itself; beside it stand `images` (any form of image to batches), `training` (the loop),
`calibration` (temperature, threshold, figures), `auto` (which method), `file` (the saved form), `export` (ONNX and the
like) and `hub` (the saved form on the Hugging Face Hub).
"""
