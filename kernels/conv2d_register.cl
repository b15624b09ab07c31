// conv2d_register.cl
