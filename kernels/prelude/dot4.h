// dot4.h: dot products of signed bytes, four in a word.

#ifndef DOT
#define DOT 0           // 1: by OpenCL's word for it, which not every compiler has
#endif

// sum + the dot product of the four signed bytes of `a` and `b`. Products of bytes fit 24 bits. A
// compiler with an instruction for it has this word of its own.
#ifndef DOT4
INLINE int dot4_i8(const int a, const int b, const int sum)
{
    const char4 left = as_char4(a);
    const char4 right = as_char4(b);
#if DOT
    return sum + dot(left, right);
#else
    return mad24((int)left.s0, (int)right.s0, mad24((int)left.s1, (int)right.s1,
           mad24((int)left.s2, (int)right.s2, mad24((int)left.s3, (int)right.s3, sum))));
#endif
}
#endif
