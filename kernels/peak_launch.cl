// peak_launch.cl: y[0] = value.
//
//   y            [1]  float
//   launch       one work-item
//
// Measures what a launch costs: the least work whose result can be checked.

__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void peak_launch(__global float *y,
                 const float value)
{
    y[0] = value;
}
