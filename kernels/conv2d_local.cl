// conv2d_local.cl
