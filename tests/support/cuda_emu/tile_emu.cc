#include "tile_emu.h"

#include "emu_private.h"

#define WARP 32

/* ---- ldmatrix ---- */

struct load {
    uint32_t *r;
    const void *row;
    int matrices;
    bool transposed;
};

static void load_matrices(void *const posted[32])
{
    const load *first = (const load *)posted[0];
    for (int m = 0; m < first->matrices; m++) {
        uint16_t matrix[8][8];
        for (int row = 0; row < 8; row++) {
            const void *from = ((const load *)posted[m * 8 + row])->row;
            if ((uintptr_t)from % 16 != 0)
                rh_emu_die("ldmatrix: row %d of matrix %d is not aligned to 16 bytes", row, m);
            memcpy(matrix[row], from, 16);
        }
        for (int lane = 0; lane < WARP; lane++) {
            const load *to = (const load *)posted[lane];
            int g = lane / 4, t = lane % 4 * 2;
            uint32_t low = to->transposed ? matrix[t][g] : matrix[g][t];
            uint32_t high = to->transposed ? matrix[t + 1][g] : matrix[g][t + 1];
            to->r[m] = low | high << 16;
        }
    }
}

void rh_emu_ldmatrix(uint32_t *r, int matrices, bool transposed, const void *row)
{
    load l = {r, row, matrices, transposed};
    rh_emu_warp(RH_EMU_LDMATRIX, &l, load_matrices);
}

/* ---- mma ---- */

struct product {
    float *d;
    const uint32_t *a, *b;
};

/* Products are exact in fp64; the hardware's sum is at least as good as fp32, whose rounding ends it here. */
static void multiply(void *const posted[32], int k, const double a[16][16], const double b[16][8])
{
    for (int lane = 0; lane < WARP; lane++) {
        float *d = ((const product *)posted[lane])->d;
        for (int i = 0; i < 4; i++) {
            int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
            double sum = (double)d[i];
            for (int at = 0; at < k; at++)
                sum += a[row][at] * b[at][column];
            d[i] = (float)sum;
        }
    }
}

static void put_pair(double *low, double *high, uint32_t pair)
{
    *low = (double)rh_emu_cast<float>(pair << 16);
    *high = (double)rh_emu_cast<float>(pair & 0xffff0000U);
}

static void multiply_bf16(void *const posted[32])
{
    double a[16][16], b[16][8];
    for (int lane = 0; lane < WARP; lane++) {
        const product *p = (const product *)posted[lane];
        int g = lane / 4, t = lane % 4 * 2;
        for (int i = 0; i < 4; i++) {
            double *at = &a[g + i % 2 * 8][t + i / 2 * 8];
            put_pair(at, at + 1, p->a[i]);
        }
        for (int i = 0; i < 2; i++)
            put_pair(&b[t + i * 8][g], &b[t + i * 8 + 1][g], p->b[i]);
    }
    multiply(posted, 16, a, b);
}

static double tf32(uint32_t bits)
{
    return (double)rh_emu_cast<float>(bits & 0xffffe000U);
}

static void multiply_tf32(void *const posted[32])
{
    double a[16][16], b[16][8];
    for (int lane = 0; lane < WARP; lane++) {
        const product *p = (const product *)posted[lane];
        int g = lane / 4, t = lane % 4;
        for (int i = 0; i < 4; i++)
            a[g + i % 2 * 8][t + i / 2 * 4] = tf32(p->a[i]);
        for (int i = 0; i < 2; i++)
            b[t + i * 4][g] = tf32(p->b[i]);
    }
    multiply(posted, 8, a, b);
}

void rh_emu_mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    product p = {d, a, b};
    rh_emu_warp(RH_EMU_MMA, &p, multiply_bf16);
}

void rh_emu_mma_tf32(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    product p = {d, a, b};
    rh_emu_warp(RH_EMU_MMA, &p, multiply_tf32);
}

/* ---- cp.async ---- */

/* The group that is being filled has number 0, the last committed one 1, and so on. */
void rh_emu_copy_later(void *shared, const void *global, bool valid)
{
    if ((uintptr_t)shared % 16 != 0 || (valid && (uintptr_t)global % 16 != 0))
        rh_emu_die("cp.async: an address is not aligned to 16 bytes");
    if (valid && !rh_emu_is_device(global, 16))
        rh_emu_die("cp.async: reads outside of device memory");
    rh_emu_own_copies()->push_back({shared, global, valid, 0});
}

void rh_emu_copy_commit()
{
    for (rh_emu_copy &copy : *rh_emu_own_copies())
        copy.group++;
}

void rh_emu_copy_wait(int pending)
{
    std::vector<rh_emu_copy> kept;
    for (const rh_emu_copy &copy : *rh_emu_own_copies()) {
        if (copy.group == 0 || copy.group <= pending)
            kept.push_back(copy);
        else if (copy.valid)
            memcpy(copy.to, copy.from, 16);
        else
            memset(copy.to, 0, 16);
    }
    rh_emu_own_copies()->swap(kept);
}
