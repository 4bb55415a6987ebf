// A library with nothing in it: the name by which the parser of TensorRT-RTX asks leads on to the real one.
