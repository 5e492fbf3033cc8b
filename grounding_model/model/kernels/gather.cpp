// The sum of attention.sample_rows for a CPU, of float32 or bfloat16 rows, added up in float32, and its gradient of
// float32 rows. See compiled_gather.py.
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

// The gradient of `look`: adds to the gradients of one head's rows, locations and weights. Points outside a level pass
// no gradient, as their corners have weight zero in attention.neighbours.
template <int CHANNELS>
inline void look_back(const float* __restrict table, float* __restrict table_grad, const int32_t* levels,
                      const float* locations, const float* weights, const float* output_grad,
                      float* __restrict location_grads, float* __restrict weight_grads, int heads, int level_count,
                      int points, int stride) {
    constexpr int LANES = CHANNELS < 8 ? 1 : 8;  // a fixed order of summation that a vector unit can follow
    float grad[CHANNELS];
    for (int c = 0; c < CHANNELS; ++c) grad[c] = output_grad[c];
    const auto corner = [&](bool inside, long first, float share) {  // -> how much the sum grows with the corner's share
        if (!inside) return 0.0f;
        const float* __restrict row = table + first;
        float* __restrict row_grad = table_grad + first;
        float products[LANES] = {};
        for (int c = 0; c < CHANNELS; c += LANES)
            for (int lane = 0; lane < LANES; ++lane) products[lane] += grad[c + lane] * row[c + lane];
        for (int c = 0; c < CHANNELS; ++c) row_grad[c] += share * grad[c];
        for (int half = LANES / 2; half > 0; half /= 2)
            for (int lane = 0; lane < half; ++lane) products[lane] += products[lane + half];
        return products[0];
    };
    const long cell = static_cast<long>(heads) * stride;
    for (int level = 0; level < level_count; ++level) {
        const long height = levels[3 * level], width = levels[3 * level + 1], start = levels[3 * level + 2];
        for (int point = level * points; point < (level + 1) * points; ++point) {
            const float x = locations[2 * point] * width - 0.5f, y = locations[2 * point + 1] * height - 0.5f;
            if (!(x >= -1 && y >= -1 && x < width && y < height)) continue;  // also what is not a number
            const float left = std::floor(x), top = std::floor(y), weight = weights[point];
            const long column = static_cast<long>(left), row = static_cast<long>(top);
            const float right = x - left, bottom = y - top, before = 1 - right, above = 1 - bottom;
            const long first = (start + row * width + column) * cell, below = first + width * cell;
            const bool has_left = column >= 0, has_right = column + 1 < width;
            const bool has_top = row >= 0, has_bottom = row + 1 < height;
            const float top_left = corner(has_top && has_left, first, above * before * weight);
            const float top_right = corner(has_top && has_right, first + cell, above * right * weight);
            const float bottom_left = corner(has_bottom && has_left, below, bottom * before * weight);
            const float bottom_right = corner(has_bottom && has_right, below + cell, bottom * right * weight);
            const float at_top = before * top_left + right * top_right;
            const float at_bottom = before * bottom_left + right * bottom_right;
            const float across = above * (top_right - top_left) + bottom * (bottom_right - bottom_left);
            weight_grads[point] += above * at_top + bottom * at_bottom;
            location_grads[2 * point] += across * weight * width;
            location_grads[2 * point + 1] += (at_bottom - at_top) * weight * height;
        }
    }
}

}  // namespace

// The gradients of gather_float32; they are zero when it begins. Rows of different heads are different rows, so each
// head has a thread of its own and sums are taken in the same order with any number of threads.
extern "C" void gather_back(const float* table, const int32_t* levels, const int32_t* first_rows,
                            const float* locations, const float* weights, const float* output_grad, float* table_grad,
                            float* location_grads, float* weight_grads, long queries, int heads, int level_count,
                            int points, int channels, int threads) {
    const long count = static_cast<long>(level_count) * points;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int head = 0; head < heads; ++head) {
        for (long query = 0; query < queries; ++query) {
            const long place = query * heads + head, rows = (first_rows[query] + head) * static_cast<long>(channels);
            const float *at = locations + 2 * place * count, *share = weights + place * count;
            const float* grad = output_grad + place * channels;
            float *at_grad = location_grads + 2 * place * count, *share_grad = weight_grads + place * count;
            int done = 0;
            for (; done + 32 <= channels; done += 32)
                look_back<32>(table + rows + done, table_grad + rows + done, levels, at, share, grad + done, at_grad,
                              share_grad, heads, level_count, points, channels);
            for (; done < channels; ++done)
                look_back<1>(table + rows + done, table_grad + rows + done, levels, at, share, grad + done, at_grad,
                             share_grad, heads, level_count, points, channels);
        }
    }
}

#define EXPORT(NAME, TYPE)                                                                                          \
    extern "C" void NAME(const TYPE* table, const int32_t* levels, const int32_t* first_rows,                       \
                         const float* locations, const float* weights, float* output, long queries, int heads,      \
                         int level_count, int points, int channels, int threads) {                                  \
        gather(table, levels, first_rows, locations, weights, output, queries, heads, level_count, points,          \
               channels, threads);                                                                                  \
    }
EXPORT(gather_float32, float)
EXPORT(gather_bfloat16, uint16_t)
