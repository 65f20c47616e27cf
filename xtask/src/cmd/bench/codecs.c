// The rate of ggml's encoders: what llama-quantize calls, on one thread.
//
//     codecs ROWS COLS SECONDS VALUES IMPORTANCE OUT TYPE...
//
// VALUES are ROWS * COLS f32, IMPORTANCE is COLS of them. For each type (an id of ggml) OUT gets the encoded rows, without and with
// importance, and stdout the two shortest times within SECONDS.

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "ggml.h"

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

static float *read_floats(const char *path, size_t count) {
    float *values = malloc(count * sizeof(float));
    FILE *file = fopen(path, "rb");
    if (!values || !file || fread(values, sizeof(float), count, file) != count) {
        fprintf(stderr, "cannot read %s\n", path);
        exit(1);
    }
    fclose(file);
    return values;
}

int main(int argc, char **argv) {
    if (argc < 8) return 2;
    long rows = atol(argv[1]), cols = atol(argv[2]);
    double seconds = atof(argv[3]);
    float *values = read_floats(argv[4], rows * cols), *importance = read_floats(argv[5], cols);
    FILE *out = fopen(argv[6], "wb");
    if (!out) return 1;
    for (int n = 7; n < argc; n++) {
        enum ggml_type type = atoi(argv[n]);
        size_t bytes = rows * ggml_row_size(type, cols);
        void *encoded = malloc(bytes);
        for (int weighted = 0; weighted < 2; weighted++) {
            double best = 1e9, begin = now();
            do {
                double start = now();
                ggml_quantize_chunk(type, values, encoded, 0, rows, cols, weighted ? importance : NULL);
                double taken = now() - start;
                if (taken < best) best = taken;
            } while (now() - begin < seconds);
            if (fwrite(encoded, 1, bytes, out) != bytes) return 1;
            printf("%.9f\n", best);
        }
        free(encoded);
    }
    return fclose(out);
}
