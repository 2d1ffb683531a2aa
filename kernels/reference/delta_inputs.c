#include "ops_reference.h"

#define LENGTH_EPS 1e-6

static void unit_length(const float *x, float *y, float *rate, double factor, int64_t n)
{
    double r = 1.0 / sqrt(rh_reference_dot(x, 1, x, n) + LENGTH_EPS);
    for (int64_t i = 0; i < n; i++)
        y[i] = (float)(factor * r * (double)x[i]);
    *rate = (float)r;
}

/* PyTorch's softplus is the identity above 20. */
static double softplus(double x)
{
    return x > 20.0 ? x : log1p(exp(x));
}

void rh_reference_delta_inputs(struct rh_backend *backend, const struct rh_delta_inputs *p)
{
    (void)backend;
    const float *m = p->m;
    const float *a = p->a;
    const float *b = p->b;
    float *qn = p->qn;
    float *kn = p->kn;
    int64_t n = p->key_size;
    for (int64_t row = 0; row < p->rows; row++) {
        for (int64_t h = 0; h < p->key_heads; h++) {
            int64_t at = row * p->key_heads + h;
            const float *q = m + row * p->ldm + h * n;
            unit_length(q, qn + at * n, p->rq + at, 1.0 / sqrt((double)n), n);
            unit_length(q + p->key_heads * n, kn + at * n, p->rk + at, 1.0, n);
        }
        for (int64_t j = 0; j < p->value_heads; j++) {
            int64_t at = row * p->value_heads + j;
            double x = (double)a[row * p->ldb + j] + (double)p->dt_bias[j];
            p->beta[at] = (float)rh_reference_sigmoid((double)b[row * p->ldb + j]);
            p->g[at] = (float)(-exp((double)p->a_log[j]) * softplus(x));
        }
    }
}

/* y = factor x r with r = 1/sqrt(x.x + eps): dx = factor r (dy - r^2 x (x.dy)) */
static void unit_length_backward(const float *x, const float *dy, float *dx, float rate,
                                 double factor, int64_t n)
{
    double r = (double)rate;
    double along = rh_reference_dot(x, 1, dy, n);
    for (int64_t i = 0; i < n; i++)
        dx[i] = (float)(factor * r * ((double)dy[i] - r * r * (double)x[i] * along));
}

void rh_reference_delta_inputs_backward(struct rh_backend *backend, const struct rh_delta_inputs *p)
{
    (void)backend;
    const float *m = p->m;
    const float *a = p->a;
    const float *b = p->b;
    const float *dq = p->dq;
    const float *dk = p->dk;
    float *dm = p->dm;
    float *da = p->da;
    float *db = p->db;
    int64_t n = p->key_size;
    for (int64_t row = 0; row < p->rows; row++) {
        for (int64_t h = 0; h < p->key_heads; h++) {
            int64_t at = row * p->key_heads + h;
            int64_t q = row * p->ldm + h * n;
            int64_t k = q + p->key_heads * n;
            unit_length_backward(m + q, dq + at * n, dm + q, p->rq[at], 1.0 / sqrt((double)n), n);
            unit_length_backward(m + k, dk + at * n, dm + k, p->rk[at], 1.0, n);
        }
        for (int64_t j = 0; j < p->value_heads; j++) {
            int64_t at = row * p->value_heads + j;
            double s = rh_reference_sigmoid((double)b[row * p->ldb + j]);
            double x = (double)a[row * p->ldb + j] + (double)p->dt_bias[j];
            db[row * p->ldb + j] = (float)((double)p->dbeta[at] * s * (1.0 - s));
            da[row * p->ldb + j] =
                (float)((double)p->dg[at] * -exp((double)p->a_log[j]) * rh_reference_sigmoid(x));
        }
    }
}
