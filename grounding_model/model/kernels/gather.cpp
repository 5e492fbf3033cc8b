// The sum of attention.sample_rows for a CPU, of float32 or bfloat16 rows, added up in float32. See compiled_gather.py.
#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

inline float read(const float* p) { return *p; }
inline float read(const uint16_t* p) {  // bfloat16: the upper half of a float
    const uint32_t bits = static_cast<uint32_t>(*p) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// Adds up one head of one query. CHANNELS: known when compiled, so that the sum stays in registers.
template <class T, int CHANNELS>
inline void look(const T* table, const int32_t* levels, const float* locations, const float* weights, float* output,
                 int heads, int level_count, int points, int stride) {
    float sum[CHANNELS] = {};
    const auto add = [&sum](const T* row, float share) {
        for (int c = 0; c < CHANNELS; ++c) sum[c] += share * read(row + c);
    };
    for (int level = 0; level < level_count; ++level) {
        const long height = levels[3 * level], width = levels[3 * level + 1], start = levels[3 * level + 2];
        for (int point = level * points; point < (level + 1) * points; ++point) {
            const float x = locations[2 * point] * width - 0.5f, y = locations[2 * point + 1] * height - 0.5f;
            if (!(x > -1 && y > -1 && x < width && y < height)) continue;  // also what is not a number
            const float left = std::floor(x), top = std::floor(y), weight = weights[point];
            const long column = static_cast<long>(left), row = static_cast<long>(top);
            const float right = x - left, bottom = (y - top) * weight, above = weight - bottom;
            const T* corner = table + (start + row * width + column) * heads * stride;
            const T* below = corner + width * heads * stride;
            const bool has_left = column >= 0, has_right = column + 1 < width;
            if (row >= 0 && has_left) add(corner, above * (1 - right));
            if (row >= 0 && has_right) add(corner + heads * stride, above * right);
            if (row + 1 < height && has_left) add(below, bottom * (1 - right));
            if (row + 1 < height && has_right) add(below + heads * stride, bottom * right);
        }
    }
    for (int c = 0; c < CHANNELS; ++c) output[c] = sum[c];
}

// levels: height, width, first token of each. Output and shapes as in attention.sample_rows.
template <class T>
void gather(const T* table, const int32_t* levels, const int32_t* first_rows, const float* locations,
            const float* weights, float* output, long queries, int heads, int level_count, int points, int channels,
            int threads) {
    const long count = static_cast<long>(level_count) * points;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (long place = 0; place < queries * heads; ++place) {
        const T* rows = table + (first_rows[place / heads] + place % heads) * channels;
        const float *at = locations + 2 * place * count, *share = weights + place * count;
        float* sum = output + place * channels;
        int done = 0;
        for (; done + 32 <= channels; done += 32)
            look<T, 32>(rows + done, levels, at, share, sum + done, heads, level_count, points, channels);
        for (; done < channels; ++done)
            look<T, 1>(rows + done, levels, at, share, sum + done, heads, level_count, points, channels);
    }
}

}  // namespace

#define EXPORT(NAME, TYPE)                                                                                          \
    extern "C" void NAME(const TYPE* table, const int32_t* levels, const int32_t* first_rows,                       \
                         const float* locations, const float* weights, float* output, long queries, int heads,      \
                         int level_count, int points, int channels, int threads) {                                  \
        gather(table, levels, first_rows, locations, weights, output, queries, heads, level_count, points,          \
               channels, threads);                                                                                  \
    }
EXPORT(gather_float32, float)
EXPORT(gather_bfloat16, uint16_t)
