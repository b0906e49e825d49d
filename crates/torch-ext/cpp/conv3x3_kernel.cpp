// Winograd's F(4x4, 3x3): a tile of 4x4 outputs takes 36 products for each pair of channels where the sum itself takes 144
// (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015).
//
// With the points 0, +-A, +-B and infinity. A = 3/4, B = 3/2 have half the rounding error of the usual 1 and 2, and are exact.
// A number depends on its own tile and on the order of the channels alone, not on how the work is cut.
#include "conv3x3_kernel.h"
#include "vectors.h"

namespace {

// Everything below is written for either width; with AVX-512 there are twice as many registers, too.
#ifdef __AVX512F__
typedef v16 widest;
constexpr int TILES = 12;  // whose products a kernel adds up at once
#else
typedef v8 widest;
constexpr int TILES = 6;
#endif

constexpr float A = 0.75f, B = 1.5f, AA = A * A, BB = B * B;

template <class V>
constexpr int64_t lanes = sizeof(V) / sizeof(float);

// Six numbers of the input to the six points.
template <class V>
INLINE void input_to_points(const V d[6], V out[6]) {
  V even_a = d[4] - BB * d[2], odd_a = A * d[3] - (A * BB) * d[1];
  V even_b = d[4] - AA * d[2], odd_b = B * d[3] - (B * AA) * d[1];
  out[0] = (AA * BB) * d[0] - (AA + BB) * d[2] + d[4];
  out[1] = even_a + odd_a;
  out[2] = even_a - odd_a;
  out[3] = even_b + odd_b;
  out[4] = even_b - odd_b;
  out[5] = (AA * BB) * d[1] - (AA + BB) * d[3] + d[5];
}

// Three weights to the six points.
template <class V>
INLINE void weights_to_points(const V w[3], V out[6]) {
  constexpr float a = 1 / (2 * AA * (AA - BB)), b = 1 / (2 * BB * (BB - AA));
  V even_a = a * w[0] + (a * AA) * w[2], odd_a = (a * A) * w[1];
  V even_b = b * w[0] + (b * BB) * w[2], odd_b = (b * B) * w[1];
  out[0] = w[0] * (1 / (AA * BB));
  out[1] = even_a + odd_a;
  out[2] = even_a - odd_a;
  out[3] = even_b + odd_b;
  out[4] = even_b - odd_b;
  out[5] = w[2];
}

// Products at the six points to four outputs.
template <class V>
INLINE void points_to_output(const V m[6], V out[4]) {
  V sum_a = m[1] + m[2], difference_a = m[1] - m[2], sum_b = m[3] + m[4], difference_b = m[3] - m[4];
  out[0] = m[0] + sum_a + sum_b;
  out[1] = A * difference_a + B * difference_b;
  out[2] = AA * sum_a + BB * sum_b;
  out[3] = (A * AA) * difference_a + (B * BB) * difference_b + m[5];
}

// A row of each of eight planes, transposed: `to[x * stride + plane]`.
INLINE void transpose_row(const float* from, int64_t plane, int64_t width, int64_t stride, float* to) {
  int64_t x = 0;
  for (; x + 8 <= width; x += 8) {
    __m256 r[8], s[8];
    for (int i = 0; i < 8; i++) r[i] = _mm256_loadu_ps(from + i * plane + x);
    for (int i = 0; i < 8; i += 2) {
      s[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
      s[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
      r[i] = _mm256_shuffle_ps(s[i], s[i + 2], 0x44);
      r[i + 1] = _mm256_shuffle_ps(s[i], s[i + 2], 0xee);
      r[i + 2] = _mm256_shuffle_ps(s[i + 1], s[i + 3], 0x44);
      r[i + 3] = _mm256_shuffle_ps(s[i + 1], s[i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
      _mm256_storeu_ps(to + (x + i) * stride, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
      _mm256_storeu_ps(to + (x + i + 4) * stride, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
    }
  }
  for (; x < width; x++)
    for (int i = 0; i < 8; i++) to[x * stride + i] = from[i * plane + x];
}

// Transformed weights lie as [36][panel][inputs][width]: panels of so many output channels as a kernel takes at once. Points are
// `weights_at_point` numbers apart, so that they do not all fall into one set of the cache.
INLINE int64_t panel(int64_t left) {
  constexpr int64_t wide = lanes<widest>;
  return left >= 2 * wide ? 2 * wide : left >= wide ? wide : 8;
}

void transform_weights(const float* w, bool transposed, int64_t inputs, int64_t outputs, int64_t from, int64_t to, float* transformed) {
  for (int64_t start = 0; start < outputs; start += panel(outputs - start)) {
    int64_t width = panel(outputs - start);
    for (int64_t in = from; in < to; in++)
      for (int64_t out = start; out < start + width; out += 8) {
        v8 half[6][3], points[6];
        float nine[9 * 8];
        if (transposed) transpose_row(w + (in * outputs + out) * 9, 9, 9, 8, nine);
        else transpose_row(w + (out * inputs + in) * 9, inputs * 9, 9, 8, nine);
        for (int x = 0; x < 3; x++) {
          v8 column[3];
          for (int y = 0; y < 3; y++) column[y] = load<v8>(nine + 8 * (transposed ? 8 - (3 * y + x) : 3 * y + x));
          weights_to_points(column, points);
          for (int y = 0; y < 6; y++) half[y][x] = points[y];
        }
        for (int y = 0; y < 6; y++) {
          weights_to_points(half[y], points);
          for (int x = 0; x < 6; x++)
            store(transformed + (y * 6 + x) * weights_at_point(inputs, outputs) + start * inputs + in * width + (out - start), points[x]);
        }
      }
  }
}

// Where a block of rows of tiles keeps what it computes.
struct Block {
  const Conv3x3& c;
  int64_t from, to, padded, at_point, product_at_point;  // rows; tiles, rounded up; from one point to the next
  float *points, *products, *row;

  Block(const Conv3x3& c, int64_t from, int64_t to, float* scratch) : c(c), from(from), to(to) {
    padded = ((to - from) * c.tiles_across() + TILES - 1) / TILES * TILES;
    at_point = padded * c.inputs + 16;  // so that points do not all fall into one set of the cache
    product_at_point = padded * c.outputs + 16;
    points = scratch;
    products = points + 36 * at_point;
    row = products + 36 * product_at_point;
  }

  size_t size() const { return row - points + 6 * row_size() * lanes<widest>; }
  int64_t row_size() const { return 4 * c.tiles_across() + 2; }
};

template <class V>
void input(const Block& b, int64_t channel) {
  const Conv3x3& c = b.c;
  constexpr int64_t L = lanes<V>;
  int64_t plane = c.height * c.width, columns = b.row_size(), tile = 0;
  for (int64_t r = b.from; r < b.to; r++) {
    const float* image = c.x + (r / c.tile_rows() * c.inputs + channel) * plane;
    int64_t top = r % c.tile_rows() * 4 - 1;
    for (int64_t y = 0; y < 6; y++) {
      float* row = b.row + y * columns * L;
      bool inside = top + y >= 0 && top + y < c.height;
      store(row, V{});
      for (int64_t x = inside ? c.width + 1 : 1; x < columns; x++) store(row + x * L, V{});
      if (inside)
        for (int64_t part = 0; part < L; part += 8)
          transpose_row(image + part * plane + (top + y) * c.width, plane, c.width, L, row + L + part);
    }
    for (int64_t x = 0; x < columns; x++) {
      V column[6], points[6];
      for (int y = 0; y < 6; y++) column[y] = load<V>(b.row + (y * columns + x) * L);
      input_to_points(column, points);
      for (int y = 0; y < 6; y++) store(b.row + (y * columns + x) * L, points[y]);
    }
    for (int64_t t = 0; t < c.tiles_across(); t++, tile++)
      for (int y = 0; y < 6; y++) {
        V line[6], points[6];
        for (int x = 0; x < 6; x++) line[x] = load<V>(b.row + (y * columns + 4 * t + x) * L);
        input_to_points(line, points);
        for (int x = 0; x < 6; x++) store(b.points + (y * 6 + x) * b.at_point + tile * c.inputs + channel, points[x]);
      }
  }
}

// products[TILES][N vectors of outputs] = points[TILES][inputs] weights[inputs][N vectors]
template <class V, int N>
INLINE void multiply(const float* points, const float* weights, int64_t inputs, int64_t outputs, float* products) {
  constexpr int64_t L = lanes<V>;
  V sum[TILES][N];
  for (int t = 0; t < TILES; t++)
    for (int n = 0; n < N; n++) sum[t][n] = V{};
  for (int64_t i = 0; i < inputs; i++) {
    V w[N];
    for (int n = 0; n < N; n++) w[n] = load<V>(weights + (i * N + n) * L);
    for (int t = 0; t < TILES; t++) {
      float x = points[t * inputs + i];
      for (int n = 0; n < N; n++) sum[t][n] += x * w[n];
    }
  }
  for (int t = 0; t < TILES; t++)
    for (int n = 0; n < N; n++) store(products + t * outputs + n * L, sum[t][n]);
}

void multiply_all(const Block& b) {
  const Conv3x3& c = b.c;
  for (int64_t k = 0; k < 36; k++)
    for (int64_t start = 0; start < c.outputs; start += panel(c.outputs - start)) {
      const float* weights = c.transformed + k * weights_at_point(c.inputs, c.outputs) + start * c.inputs;
      int64_t width = panel(c.outputs - start);
      for (int64_t t = 0; t < b.padded; t += TILES) {
        const float* points = b.points + k * b.at_point + t * c.inputs;
        float* products = b.products + k * b.product_at_point + t * c.outputs + start;
        if (width == 2 * lanes<widest>) multiply<widest, 2>(points, weights, c.inputs, c.outputs, products);
        else if (width == lanes<widest>) multiply<widest, 1>(points, weights, c.inputs, c.outputs, products);
        else multiply<v8, 1>(points, weights, c.inputs, c.outputs, products);
      }
    }
}

// Four numbers of each of eight channels to their places.
INLINE void scatter(const v8 line[4], int64_t plane, int64_t width, float* to) {
  if (width < 4) {
    for (int x = 0; x < width; x++)
      for (int i = 0; i < 8; i++) to[i * plane + x] = line[x][i];
    return;
  }
  __m256 a = _mm256_unpacklo_ps((__m256)line[0], (__m256)line[1]), b = _mm256_unpackhi_ps((__m256)line[0], (__m256)line[1]);
  __m256 c = _mm256_unpacklo_ps((__m256)line[2], (__m256)line[3]), d = _mm256_unpackhi_ps((__m256)line[2], (__m256)line[3]);
  __m256 r[4] = {_mm256_shuffle_ps(a, c, 0x44), _mm256_shuffle_ps(a, c, 0xee), _mm256_shuffle_ps(b, d, 0x44),
                 _mm256_shuffle_ps(b, d, 0xee)};
  for (int i = 0; i < 4; i++) {
    _mm_storeu_ps(to + i * plane, _mm256_castps256_ps128(r[i]));
    _mm_storeu_ps(to + (i + 4) * plane, _mm256_extractf128_ps(r[i], 1));
  }
}

template <class V>
void output(const Block& b, int64_t channel) {
  const Conv3x3& c = b.c;
  constexpr int64_t L = lanes<V>;
  int64_t plane = c.height * c.width, tile = 0;
  V bias = c.bias ? load<V>(c.bias + channel) : V{};
  for (int64_t r = b.from; r < b.to; r++) {
    int64_t top = r % c.tile_rows() * 4, rows = c.height - top < 4 ? c.height - top : 4;
    for (int64_t t = 0; t < c.tiles_across(); t++, tile++) {
      V half[4][6], line[4];
      for (int x = 0; x < 6; x++) {
        V column[6];
        for (int y = 0; y < 6; y++) column[y] = load<V>(b.products + (y * 6 + x) * b.product_at_point + tile * c.outputs + channel);
        points_to_output(column, line);
        for (int y = 0; y < 4; y++) half[y][x] = line[y];
      }
      float* to = c.y + (r / c.tile_rows() * c.outputs + channel) * plane + top * c.width + 4 * t;
      for (int64_t y = 0; y < rows; y++) {
        points_to_output(half[y], line);
        for (int x = 0; x < 4; x++) line[x] += bias;
        for (int64_t part = 0; part < L; part += 8) {
          v8 eight[4];
          for (int x = 0; x < 4; x++) eight[x] = load<v8>(reinterpret_cast<const float*>(&line[x]) + part);
          scatter(eight, plane, c.width - 4 * t, to + part * plane + y * c.width);
        }
      }
    }
  }
}

size_t scratch(const Conv3x3& c, int64_t rows) { return Block(c, 0, rows, nullptr).size(); }

void run(const Conv3x3& c, int64_t from, int64_t to, float* scratch) {
  Block b(c, from, to, scratch);
  int64_t tiles = (to - from) * c.tiles_across();
  for (int k = 0; k < 36; k++)  // tiles that are none: any number will do, but one that is fast
    for (int64_t i = tiles * c.inputs; i < b.padded * c.inputs; i++) b.points[k * b.at_point + i] = 0;
  int64_t channel = 0;
  for (; channel + lanes<widest> <= c.inputs; channel += lanes<widest>) input<widest>(b, channel);
  for (; channel < c.inputs; channel += 8) input<v8>(b, channel);
  multiply_all(b);
  for (channel = 0; channel + lanes<widest> <= c.outputs; channel += lanes<widest>) output<widest>(b, channel);
  for (; channel < c.outputs; channel += 8) output<v8>(b, channel);
}

}  // namespace

#ifdef __AVX512F__
#define conv3x3_avx2 conv3x3_avx512
#endif
extern const Conv3x3Kernel conv3x3_avx2 = {transform_weights, scratch, run};
