// amd.h: words that AMD's compilers have instructions for, one function an instruction, and what is
// made of them. A program gets this file behind portable.h, with HAS_.. defined for each section
// that was found to compile for the device: see src/backend/words.rs.
//
// A wave is what a driver makes of the work-items of a group that follow each other.

#ifdef HAS_DPP
// Work-items of a wave. Compilers before LLVM 18 have a constant for it, the newest only a builtin.
#ifdef __AMDGCN_WAVEFRONT_SIZE
#define WAVE_SIZE __AMDGCN_WAVEFRONT_SIZE
#else
#define WAVE_SIZE __builtin_amdgcn_wavefrontsize()
#endif

// A value of another work-item of the wave: DPP, from gfx803 on.
INLINE float of_next(const float v) // 0 and 1 change places, and so on
{
    return as_float(__builtin_amdgcn_update_dpp(0, as_int(v), 0xb1, 15, 15, true));
}
INLINE float of_next_pair(const float v) // 0, 1 and 2, 3 change places
{
    return as_float(__builtin_amdgcn_update_dpp(0, as_int(v), 0x4e, 15, 15, true));
}
INLINE float of_mirrored_8(const float v) // in each eight, the last is first
{
    return as_float(__builtin_amdgcn_update_dpp(0, as_int(v), 0x141, 15, 15, true));
}
INLINE float of_mirrored_16(const float v)
{
    return as_float(__builtin_amdgcn_update_dpp(0, as_int(v), 0x140, 15, 15, true));
}
INLINE float of_lane(const float v, const uint lane)
{
    return as_float(__builtin_amdgcn_readlane(as_int(v), lane));
}

// The sum over a wave all of whose work-items are there, the same in each of them.
INLINE float wave_sum(float v)
{
    v += of_next(v);
    v += of_next_pair(v);
    v += of_mirrored_8(v);
    v += of_mirrored_16(v);
    const float half_sum = of_lane(v, 0) + of_lane(v, 16);
    if (WAVE_SIZE == 32)
        return half_sum;
    return half_sum + (of_lane(v, 32) + of_lane(v, 48));
}

// group_sum, by two barriers whatever the size.
INLINE float group_sum_of_waves(const float value, __local float *scratch, const uint size)
{
    const uint wave = WAVE_SIZE;
    if (size < wave)
        return group_sum(value, scratch, size);
    const uint item = get_local_id(0);
    const float of_wave = wave_sum(value);
    barrier(CLK_LOCAL_MEM_FENCE);
    if (item % wave == 0)
        scratch[item / wave] = of_wave;
    barrier(CLK_LOCAL_MEM_FENCE);
    float sum = scratch[0];
    for (uint i = 1; i < size / wave; i++)
        sum += scratch[i];
    return sum;
}
#define group_sum group_sum_of_waves
#endif

// The word of dot4.h: four products of signed bytes, added to a sum of 32 bits.
#ifdef HAS_SDOT4 // v_dot4_i32_i8 or v_dot4c_i32_i8, from gfx906 to gfx10
#define DOT4
INLINE int dot4_i8(const int a, const int b, const int sum)
{
    return __builtin_amdgcn_sdot4(a, b, sum, false);
}
#endif

#ifdef HAS_SUDOT4 // v_dot4_i32_iu8, from gfx11 on: each side is said to be signed
#define DOT4
INLINE int dot4_i8(const int a, const int b, const int sum)
{
    return __builtin_amdgcn_sudot4(true, a, true, b, sum, false);
}
#endif

// The words of matrix.h. Where a unit would deal sums out in another order than they are
// stored in, it is given the weights' outputs in another order.
#if defined(HAS_WMMA_GFX11) || defined(HAS_WMMA_GFX12) || defined(HAS_MFMA)
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
#define HAS_MATRIX_UNITS
#endif

#ifdef HAS_WMMA_GFX11 // v_wmma_f32_16x16x16_f16 of gfx11: both halves of a wave hold all terms
#define TEAM 32
#define TEAM_SUMS 8
#define FRAGMENT half16
INLINE FRAGMENT rows_fragment(__local const ushort *tile, const uint stride, const uint lane)
{
    __local const half8 *row = (__local const half8 *)(tile + lane % 16 * stride);
    return (half16)(row[0], row[1]);
}
// Sum i of work-item l would be that of output 2 i + l / 16.
INLINE FRAGMENT weights_fragment(__local const ushort *tile, const uint stride, const uint lane)
{
    return rows_fragment(tile, stride, lane % 2 * 8 + lane % 16 / 2);
}
INLINE float8 multiply_fragments(const FRAGMENT w, const FRAGMENT x, const uint stride, const float8 sum)
{
    return __builtin_amdgcn_wmma_f32_16x16x16_f16_w32(w, x, sum);
}
#endif

#ifdef HAS_WMMA_GFX12 // v_wmma_f32_16x16x16_f16 of gfx12: each half of a wave holds half the terms
#define TEAM 32
#define TEAM_SUMS 8
#define FRAGMENT half8
INLINE FRAGMENT rows_fragment(__local const ushort *tile, const uint stride, const uint lane)
{
    return *(__local const half8 *)(tile + lane % 16 * stride + lane / 16 * 8);
}
INLINE FRAGMENT weights_fragment(__local const ushort *tile, const uint stride, const uint lane)
{
    return rows_fragment(tile, stride, lane);
}
INLINE float8 multiply_fragments(const FRAGMENT w, const FRAGMENT x, const uint stride, const float8 sum)
{
    return __builtin_amdgcn_wmma_f32_16x16x16_f16_w32_gfx12(w, x, sum);
}
#endif

#ifdef HAS_MFMA // v_mfma_f32_16x16x16_f16, from gfx908 on: each quarter of a wave holds four terms
#define TEAM 64
#define TEAM_SUMS 4
#define FRAGMENT half4
INLINE FRAGMENT rows_fragment(__local const ushort *tile, const uint stride, const uint lane)
{
    return *(__local const half4 *)(tile + lane % 16 * stride + lane / 16 * 4);
}
INLINE FRAGMENT weights_fragment(__local const ushort *tile, const uint stride, const uint lane)
{
    return rows_fragment(tile, stride, lane);
}
INLINE float4 multiply_fragments(const FRAGMENT w, const FRAGMENT x, const uint stride, const float4 sum)
{
    return __builtin_amdgcn_mfma_f32_16x16x16f16(w, x, sum, 0, 0, 0);
}
#endif
