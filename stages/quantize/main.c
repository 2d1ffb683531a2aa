#include "quantize/quantize.h"

int main(int argc, char **argv)
{
    return rh_stage_main(&rh_quantize_stage, argc, argv);
}
